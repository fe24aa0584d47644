"""Which image the steps of a sweep run in on a cluster."""

from __future__ import annotations

from pathlib import Path

import yaml
from kfp.compiler import Compiler

from components.profile import load_cluster
from pipelines.sweep_pipeline import make_sweep_pipeline

CLUSTER = Path(__file__).with_name("cluster.yaml")


def test_what_imports_torch_has_the_trainers_image(tmp_path: Path) -> None:
    """`sdpose.training` does, whatever is taken from it; the slim image has no torch."""
    cluster = load_cluster(CLUSTER)
    slim = "registry.example/slim@sha256:" + "0" * 64
    pipelines = cluster.pipelines.model_copy(update={"image": slim})
    cluster = cluster.model_copy(update={"pipelines": pipelines})
    Compiler().compile(make_sweep_pipeline(cluster, parallel=1), str(tmp_path / "sweep.yaml"))
    ir = next(yaml.safe_load_all((tmp_path / "sweep.yaml").read_text()))
    slim_steps = {
        name
        for name, executor in ir["deploymentSpec"]["executors"].items()
        if executor["container"]["image"] == slim
    }
    assert slim_steps == {"exec-preflight", "exec-prepare-coco"}
