"""A real training, all of whose files are on S3, loses the machine of one of its pods."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from servers.s3 import S3Server

from components.launcher import supervise
from components.launcher.launch import run_job
from components.profile import parse_cluster
from sdpose.config import load_experiment
from sdpose.files import sha256_of_file
from sdpose.storage import open_store
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from tests.cluster.conftest import IMAGE, Meanwhile, logged_to, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.test_node_loss import TOLERATES


@pytest.mark.timeout(600)
def test_training_goes_on_elsewhere_from_the_mirror(
    kube: KubeCluster,
    moto: S3Server,
    meanwhile: Meanwhile,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dataset and work dir are on S3: what a pod has on its node's disk is gone with the node. The
    master is lost, which saves the checkpoints; the worker sees its closed connection."""
    monkeypatch.setattr(supervise, "PATIENCE_S", 0.5)
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{moto.new_bucket()}"
    write_synthetic_coco(tmp_path / "data", num_train=48, num_val=8, seed=0)
    data = open_store(f"{bucket}/data")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            key = str(path.relative_to(tmp_path / "data"))
            data.put_file(path, key, sha256_of_file(path))
    kube.add_node("node-2")
    kube.images[IMAGE] = {"python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()}
    kube.container_env = {
        "PYTHONPATH": str(repository),
        "OMP_NUM_THREADS": "1",
        **moto.environment(),
    }
    cluster = parse_cluster(
        f"""
        namespace: pose
        image: {IMAGE}
        nodes: 2
        gpus_per_node: 0
        data_root: {bucket}/data
        work_dirs: {bucket}/runs
        tolerations: {json.dumps(TOLERATES)}
        env: {{MLFLOW_TRACKING_URI: "sqlite:////tmp/mlflow.db"}}
        """
    )
    experiment = load_experiment(
        "quickstart",
        (
            "total_epochs=4",
            "checkpoint_config.interval=1",
            "evaluation.interval=4",
            "log_config.interval=1",
            "data.samples_per_gpu=8",
        ),
        **cluster.places("quickstart"),
    )
    runs, said = open_store(f"{bucket}/runs/quickstart"), list[str]()

    def lose() -> None:
        until(lambda: runs.exists("epoch_2.pth"), timeout=300)
        pod = running(kube, "master-0")
        assert pod is not None
        node = pod["spec"]["nodeName"]
        kube.kubelet.lose(node)
        until(lambda: any(f"kubectl delete node {node}" in line for line in said))
        kube.delete_node(node)

    meanwhile(lose)
    with logged_to(said):
        run_job(experiment, cluster, run_id="run-1", log=tmp_path / "log.txt")
    text = "\n".join(said)
    assert "master-0 starts again; before: no exit code, DeletionBy" in text, text
    # Whichever had arrived when the power went.
    assert re.search(rf"\[master-0\] fetched {bucket}/runs/quickstart/\w+\.pth", text), text
    assert "[master-0] continuing from" in text, text
    assert "worker-0 starts again; before: exit code 141" in text, text
    assert runs.exists("epoch_4.pth")
