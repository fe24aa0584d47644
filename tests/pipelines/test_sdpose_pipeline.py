"""The DAG as KFP's IR: what a cluster gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.profile import load_cluster
from pipelines.sdpose_pipeline import compile_pipeline, make_pipeline, sdpose_pipeline


def compiled(pipeline: Any, folder: Path) -> list[dict[str, Any]]:
    compile_pipeline(pipeline, folder / "package.yaml")
    return list(yaml.safe_load_all((folder / "package.yaml").read_text()))


CLUSTER = load_cluster(Path(__file__).with_name("cluster.yaml"))


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
    for name in ("evaluate", "register"):
        checkpoint = tasks[name]["inputs"]["artifacts"]["checkpoint"]["taskOutputArtifact"]
        assert checkpoint["producerTask"] == "train"


def test_a_promotion_is_one_more_step_and_computes(tmp_path: Path) -> None:
    package, platform = compiled(make_pipeline(CLUSTER, promotes=True), tmp_path)
    task = package["root"]["dag"]["tasks"]["promote"]
    assert task["dependentTasks"] == ["register"]
    assert not task["cachingOptions"].get("enableCache")
    parameters = task["inputs"]["parameters"]
    assert parameters["channel"] == {"componentInputParameter": "promote_to"}
    assert parameters["approver"] == {"componentInputParameter": "approver"}
    container = package["deploymentSpec"]["executors"]["exec-promote"]["container"]
    assert container["image"] == CLUSTER.image
    assert container["resources"]["accelerator"]["count"] == "1"
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods["exec-promote"]["nodeSelector"] == {"labels": {"gpu": "h100"}}


def test_kfp_shows_the_report_as_html(tmp_path: Path) -> None:
    package = compiled(sdpose_pipeline, tmp_path)[0]
    outputs = package["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    assert outputs["report"]["artifactType"]["schemaTitle"] == "system.HTML"


def cached(tmp_path: Path, **options: Any) -> set[str]:
    tasks = compiled(make_pipeline(**options), tmp_path)[0]["root"]["dag"]["tasks"]
    return {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}


def test_steps_that_look_at_the_world_or_change_it_are_never_cached(tmp_path: Path) -> None:
    assert cached(tmp_path) == {"train", "evaluate"}
    assert cached(tmp_path, cluster=CLUSTER) == {"train-on-cluster", "evaluate"}
    assert cached(tmp_path, cluster=CLUSTER, overwrite=True) == {"evaluate"}
    assert cached(tmp_path, cluster=CLUSTER, cache=False) == set()


def test_cached_steps_get_all_that_they_depend_on_as_parameters(tmp_path: Path) -> None:
    """KFP's key: parameters, image, code; neither artifacts' bytes nor the environment."""
    tasks = compiled(make_pipeline(CLUSTER), tmp_path)[0]["root"]["dag"]["tasks"]
    train = set(tasks["train-on-cluster"]["inputs"]["parameters"])
    assert train >= {"experiment", "dataset_digest", "weights_digest", "code_version", "cluster"}
    assert not any("run" in name for name in train), "its value would never come again"
    evaluate = set(tasks["evaluate"]["inputs"]["parameters"])
    assert evaluate >= {"experiment", "dataset_digest", "checkpoint_sha256", "code_version"}


def test_on_a_cluster_the_preflight_comes_first(tmp_path: Path) -> None:
    tasks = compiled(make_pipeline(CLUSTER), tmp_path)[0]["root"]["dag"]["tasks"]
    assert tasks["prepare-coco"]["dependentTasks"] == ["preflight"]
    assert "dependentTasks" not in tasks["preflight"]
    without = compiled(make_pipeline(CLUSTER, check=False), tmp_path)[0]["root"]["dag"]["tasks"]
    assert "preflight" not in without


def test_pods_are_made_as_the_profile_says(tmp_path: Path) -> None:
    package, platform = compiled(make_pipeline(CLUSTER), tmp_path)
    containers = {
        name: executor["container"]
        for name, executor in package["deploymentSpec"]["executors"].items()
    }
    images = {name: container["image"] for name, container in containers.items()}
    assert {name for name, image in images.items() if image == CLUSTER.image} == {
        "exec-train-on-cluster",
        "exec-evaluate",
        "exec-register",
    }
    assert set(images.values()) == {CLUSTER.image, CLUSTER.pipelines.image}
    accelerators = {
        name: container.get("resources", {}).get("accelerator", {}).get("count")
        for name, container in containers.items()
    }
    for container in containers.values():  # what a model version names
        assert {"name": "SDPOSE_IMAGE", "value": container["image"]} in container["env"]
    assert accelerators.pop("exec-evaluate") == "1"
    assert set(accelerators.values()) == {None}, "the training's pods are the PyTorchJob's"
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(containers)
    for pod in pods.values():
        mounts = [(m["constant"], m["mountPath"]) for m in pod["pvcMount"]]
        assert mounts == [("coco", "/data"), ("results", "/results")]
        assert pod["secretAsEnv"][0]["keyToEnv"] == [
            {"secretKey": "secret", "envVar": "AWS_SECRET_ACCESS_KEY"}
        ]
        assert pod["fieldPathAsEnv"] == [
            {"name": "SDPOSE_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert pod["securityContext"]["runAsNonRoot"]
        annotations = pod["podMetadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert pods["exec-evaluate"]["nodeSelector"] == {"labels": {"gpu": "h100"}}
    assert pods["exec-evaluate"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"


@pytest.mark.parametrize("step", ["prepare_coco", "train", "evaluate", "register"])
def test_nothing_is_installed_at_run_time(step: str, tmp_path: Path) -> None:
    package = compiled(sdpose_pipeline, tmp_path)[0]
    container = package["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"][
        "container"
    ]
    assert "pip" not in " ".join(container["command"][:3])


def test_a_work_dir_on_s3_is_worked_on_in_the_scratch_volume(tmp_path: Path) -> None:
    """The working folder of a container is read-only."""
    cluster = CLUSTER.model_copy(update={"work_dirs": "s3://bucket/runs"})
    package, platform = compiled(make_pipeline(cluster), tmp_path)
    mounts = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in package["deploymentSpec"]["executors"].items():
        variables = {each["name"]: each["value"] for each in executor["container"]["env"]}
        assert variables["SDPOSE_SCRATCH"] == "/scratch"
        assert "/scratch" in {each["mountPath"] for each in mounts[name]["emptyDirMounts"]}
