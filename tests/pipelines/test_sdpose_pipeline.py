"""The DAG as KFP's IR: what a cluster gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline, sdpose_pipeline


def compiled(pipeline: Any, folder: Path) -> list[dict[str, Any]]:
    compile_pipeline(pipeline, folder / "package.yaml")
    return list(yaml.safe_load_all((folder / "package.yaml").read_text()))


def test_four_steps_hand_on_what_the_next_ones_need(tmp_path: Path) -> None:
    tasks = compiled(sdpose_pipeline, tmp_path)[0]["root"]["dag"]["tasks"]
    needs = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert needs == {
        "prepare-coco": set(),
        "train": {"prepare-coco"},
        "evaluate": {"prepare-coco", "train"},
        "register": {"prepare-coco", "train", "evaluate"},
    }
    for task in tasks.values():
        assert task["inputs"]["parameters"]["experiment"] == {
            "componentInputParameter": "experiment"
        }
        assert not task["cachingOptions"].get("enableCache")
    for name in ("evaluate", "register"):
        checkpoint = tasks[name]["inputs"]["artifacts"]["checkpoint"]["taskOutputArtifact"]
        assert checkpoint["producerTask"] == "train"


def test_image_gpus_and_volumes(tmp_path: Path) -> None:
    pipeline = make_pipeline("registry/sdpose@sha256:1", gpus=4, volumes={"coco": "/data/coco"})
    package, platform = compiled(pipeline, tmp_path)
    executors = package["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {"registry/sdpose@sha256:1"}
    accelerators = {
        name: e["container"].get("resources", {}).get("accelerator", {}).get("count")
        for name, e in executors.items()
    }
    assert accelerators == {
        "exec-prepare-coco": None,
        "exec-train": "4",
        "exec-evaluate": "1",
        "exec-register": None,
    }
    mounts = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in mounts.values():
        assert [(m["constant"], m["mountPath"]) for m in executor["pvcMount"]] == [
            ("coco", "/data/coco")
        ]
    assert mounts["exec-train"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"


@pytest.mark.parametrize("step", ["prepare_coco", "train", "evaluate", "register"])
def test_nothing_is_installed_at_run_time(step: str, tmp_path: Path) -> None:
    package = compiled(sdpose_pipeline, tmp_path)[0]
    container = package["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"][
        "container"
    ]
    assert "pip" not in " ".join(container["command"][:3])
