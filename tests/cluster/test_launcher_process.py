"""The launcher as a process of its own: killed, ended, and with a real training in its job."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from components.profile import Cluster, dump_cluster, parse_cluster
from sdpose.config import Experiment, dump_experiment, load_experiment
from sdpose.files import sha256_of_file
from sdpose.registry import read_version
from sdpose.registry.channels import current
from sdpose.registry.verify import verify
from sdpose.storage import open_store
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from tests.cluster.conftest import IMAGE, run_in_a_workflow, running, until
from tests.cluster.kinds import PYTORCHJOB, TRAINJOB, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.store import Object

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Iterator[Start]:
    """Starts a launcher; what it says is in the file stdout of tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(
        what: str, experiment: Experiment, cluster: Cluster, **environ: str
    ) -> subprocess.Popen[str]:
        (tmp_path / "experiment.yaml").write_text(dump_experiment(experiment))
        (tmp_path / "cluster.yaml").write_text(dump_cluster(cluster))
        with (tmp_path / "stdout").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.launcher", what, str(tmp_path)],
                cwd=repository,
                env=os.environ | {"SDPOSE_RUN_ID": "run-1", "OMP_NUM_THREADS": "1"} | environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:  # not yet waited for: the number is still its own
            for each in psutil.Process(process.pid).children(recursive=True):  # kfp's steps
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.kill()
            process.wait(10)


def test_killed_then_drained_then_cancelled(
    start: Start,
    results: Path,
    kube: KubeCluster,
    experiment: Experiment,
    profile: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_in_a_workflow(kube, monkeypatch)
    (results / "hold").touch()

    def says(text: str) -> bool:
        return text in (tmp_path / "stdout").read_text()

    first = start("job", experiment, profile)
    until(lambda: says("[worker-0] line 3") and says("[master-0] line 3"))
    first.kill()
    first.wait(10)
    assert running(kube, "worker-0")

    second = start("job", experiment, profile)
    until(lambda: says("[worker-0] line 3") and says("[master-0] line 3"))
    assert says("found, it is watched again")
    assert len(kube.store.created_of("pytorchjobs")) == 1

    def drain(pod: Object) -> None:  # as the eviction API does before it deletes a pod
        target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        pod["status"]["conditions"] = [target]

    kube.store.update(("", "pods", "pose", "launcher"), drain)
    second.terminate()
    assert second.wait(60) == 128 + signal.SIGTERM
    assert says("SIGTERM: this pod is taken away (EvictionByEvictionAPI)")
    assert running(kube, "worker-0")

    run_in_a_workflow(kube, monkeypatch, "launcher-2")
    third = start("job", experiment, profile)
    until(lambda: says("[worker-0] line 3") and says("found, it is watched again"))
    third.terminate()
    assert third.wait(60) == 128 + signal.SIGTERM
    assert says("SIGTERM: the job goes on, because a launcher removes only what it created itself")
    assert running(kube, "worker-0")

    (results / "hold").touch()
    fourth = start("job", experiment, profile, SDPOSE_RUN_ID="run-2")
    until(lambda: says("[worker-0] line 3") and says("created"))
    fourth.terminate()
    assert fourth.wait(60) == 128 + signal.SIGTERM
    assert says("SIGTERM: removing PyTorchJob")
    assert len(kube.jobs()) == 1, "the first run's"


@pytest.mark.timeout(1200)
def test_training_survives_its_worker_and_the_model_is_registered(
    start: Start, kube: KubeCluster, repository: Path, tmp_path: Path
) -> None:
    work_dir = train(PYTORCHJOB, "pipeline", start, kube, repository, tmp_path)
    summary = json.loads((work_dir / "summary.json").read_text())
    store = open_store(work_dir.parent / "registry")
    assert verify(store) == []
    version = read_version(store, "quickstart", summary["model_version"])
    assert current(store, "quickstart", "candidate") == summary["promotion"]
    assert summary["promotion"]["approver"] == "kim"
    assert version.manifest["pipeline_run_id"] == "run-1"
    best = Path(summary["best_checkpoint"])
    assert version.manifest["checkpoint"]["sha256"] == sha256_of_file(best)


@pytest.mark.timeout(1200)
def test_a_trainjob_survives_its_worker(
    start: Start, kube: KubeCluster, repository: Path, tmp_path: Path
) -> None:
    """Without the pipeline around it: the other steps do not know the kind of the job."""
    train(TRAINJOB, "job", start, kube, repository, tmp_path)


def train(
    job_kind: JobFacts,
    what: str,
    start: Start,
    kube: KubeCluster,
    repository: Path,
    tmp_path: Path,
) -> Path:
    """Two nodes train through gloo; the second is killed once there is a checkpoint. The work
    dir."""
    volume = kube.claims["results"]  # mounted in the pods at its own path: the steps run here
    write_synthetic_coco(volume / "data", num_train=48, num_val=8, seed=0)
    kube.images[IMAGE] = {"python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()}
    kube.container_env = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    services = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{volume}/mlflow.db",
        "SDPOSE_REGISTRY": f"{volume}/registry",
    }
    cluster = parse_cluster(
        f"""
        namespace: pose
        image: {IMAGE}
        nodes: 2
        gpus_per_node: 0
        volumes: [{{claim: results, path: "{volume}"}}]
        data_root: {volume}/data
        work_dirs: {volume}
        env: {json.dumps(services)}
        train_api: {job_kind.train_api}
        """
    )
    experiment = load_experiment(
        "quickstart",
        (
            "total_epochs=6",
            "checkpoint_config.interval=1",
            "evaluation.interval=6",
            "log_config.interval=1",
            "data.samples_per_gpu=8",
        ),
        **cluster.places("quickstart"),
    )
    work_dir = Path(experiment.work_dir)
    launcher = start(what, experiment, cluster, **services)

    until(lambda: list(work_dir.glob("epoch_*.pth")) or launcher.poll() is not None, timeout=500)
    worker = running(kube, job_kind.pods[1])
    assert worker is not None, (tmp_path / "stdout").read_text()
    kube.kubelet.kill(worker["metadata"]["name"])

    code = launcher.wait(600)
    said = (tmp_path / "stdout").read_text()
    assert code == 0, said
    first, second = job_kind.replicas
    assert f"{second} starts again; before: exit code 137 (SIGKILL)" in said
    assert f"[{first}] continuing from" in said
    assert re.search(r"^progress: \d+ %, epoch \d of 6", said, re.M), said
    last = re.findall(r"^progress: (.*)", said, re.M)[-1]
    assert re.fullmatch(r"100 %, epoch 6 of 6, loss .*, AP .*, finished; \d restarts?", last)
    assert job_kind.job(kube)["metadata"]["annotations"]["sdpose/progress"] == last
    assert job_kind.ever(kube) == 1
    return work_dir
