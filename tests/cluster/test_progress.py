"""How far a real training in the cluster is, as the launcher says it and keeps it on the job."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.launcher import progress_watch
from components.launcher.launch import run_job
from components.launcher.progress_watch import ANNOTATION
from components.profile import Cluster, parse_cluster
from sdpose.config import Experiment, load_experiment
from sdpose.tools.synthetic.dataset import write_synthetic_coco
from tests.cluster.conftest import IMAGE, Launch, Meanwhile, logged_to, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.server import Call, Fault
from tests.servers.s3 import S3Server
from tests.servers.trainer_status import StatusServer
from tests.shipped import CRDS

RUNNING = r"\d+ %, epoch \d+ of \d+, loss [\d.e-]+(, AP -?\d\.\d{3})?, \d:\d\d:\d\d left"
FINISHED = r"100 %, epoch (\d+) of \1, loss [\d.e-]+, AP -?\d\.\d{3}, finished"

Train = Callable[..., list[str]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_watch, "EVERY_S", 0.0)
    monkeypatch.setattr(progress_watch, "POLL_S", 0.05)


@pytest.fixture
def train(kube: KubeCluster, repository: Path, tmp_path: Path) -> Train:
    """Trains in a pod, on a volume that is mounted in it at its own path: it is seen here, too."""
    volume = kube.claims["results"]
    write_synthetic_coco(volume / "data", num_train=16, num_val=4, seed=0)
    kube.images[IMAGE] = {"python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()}
    kube.container_env = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}

    def run(*changes: str, said: list[str] | None = None, **profile: Any) -> list[str]:
        said = [] if said is None else said
        cluster = cluster_of(volume, **profile)
        with logged_to(said):
            run_job(experiment_of(cluster, *changes), cluster, run_id="r", log=tmp_path / "log.txt")
        return said

    return run


def cluster_of(volume: Path, **profile: Any) -> Cluster:
    document = {
        "namespace": "pose",
        "image": IMAGE,
        "gpus_per_node": 0,
        "volumes": [{"claim": "results", "path": str(volume)}],
        "data_root": f"{volume}/data",
        "work_dirs": str(volume),
    }
    return parse_cluster(json.dumps(document | profile))


def experiment_of(cluster: Cluster, *changes: str) -> Experiment:
    common = (
        "total_epochs=3",
        "data.samples_per_gpu=4",
        "log_config={interval: 1, hooks: [TextLoggerHook]}",
    )
    return load_experiment("quickstart", (*common, *changes), **cluster.places("quickstart"))


def annotation(kube: KubeCluster, plural: str = "pytorchjobs") -> str:
    found = [job["metadata"].get("annotations", {}) for job in kube.jobs(plural)]
    return str(found[0].get(ANNOTATION, "")) if found else ""


def lines(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("progress: ")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
def test_it_is_said_and_kept_on_the_job(
    train_api: str,
    train: Train,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    impatient: None,
) -> None:
    """A TrainJob's pod sets its status, too, as Trainer's server takes it."""
    folder = kube.claims["results"] / "trainer"
    folder.mkdir()
    crd = CRDS / "trainer-v2.3.0" / "trainjobs.yaml"
    server = StatusServer(folder, [crd])
    if train_api == "trainjob":
        kube.container_env |= server.environment
    seen: list[str] = []

    def look() -> None:
        until(lambda: re.fullmatch(RUNNING, annotation(kube, f"{train_api}s")), 300)
        seen.append("while it trains")

    meanwhile(look)
    try:
        said = train(train_api=train_api)
    finally:
        server.shutdown()
        server.server_close()
    assert seen
    assert any(re.fullmatch(f"progress: {RUNNING}", line) for line in lines(said)), said
    assert re.fullmatch(f"progress: {FINISHED}", lines(said)[-1]), said
    assert lines(said)[-1] == f"progress: {annotation(kube, f'{train_api}s')}"
    assert len(lines(said)) == len(set(lines(said)))
    assert server.refusals == []
    if train_api == "trainjob":
        assert server.statuses[-1]["progressPercentage"] == 100
        assert {"name": "currentEpoch", "value": "3"} in server.statuses[-1]["metrics"]
    else:
        assert server.requests == 0


@pytest.mark.timeout(600)
def test_it_counts_restarts_and_goes_on_after_them(
    train: Train, kube: KubeCluster, meanwhile: Meanwhile, impatient: None
) -> None:
    def preempt() -> None:
        until(lambda: ", AP " in annotation(kube), 300)
        kube.kubelet.terminate(until(lambda: running(kube, "master-0"))["metadata"]["name"])

    meanwhile(preempt)
    said = train("total_epochs=15", "evaluation.interval=1")
    told = lines(said)
    assert any(re.search(r", stopped(; 1 restart)?$", line) for line in told), told
    assert re.fullmatch(f"progress: {FINISHED}; 1 restart", told[-1]), told


@pytest.mark.timeout(600)
def test_it_is_read_from_s3(
    train: Train,
    kube: KubeCluster,
    moto: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    impatient: None,
) -> None:
    """The pod's own disk is not seen from here."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    kube.container_env |= moto.environment() | {"HOME": "/tmp"}
    said = train(work_dirs=f"s3://{moto.new_bucket()}/runs")
    assert re.fullmatch(f"progress: {FINISHED}", lines(said)[-1]), said
    assert f"progress: {annotation(kube)}" == lines(said)[-1]


@pytest.mark.timeout(600)
def test_trouble_with_it_is_said_once_and_ends_nothing(
    train: Train, kube: KubeCluster, impatient: None
) -> None:
    def annotates(call: Call) -> bool:
        return call.verb == "patch"

    kube.fault(Fault(422, annotates, times=10**6))
    said = train("total_epochs=2")
    notices = [line for line in said if ANNOTATION in line]
    assert len(notices) == 1, said
    assert "annotation sdpose/progress is not set: Kubernetes refuses PATCH" in notices[0]
    assert re.fullmatch(f"progress: {FINISHED}", lines(said)[-1]), said


@pytest.mark.timeout(600)
def test_a_record_that_cannot_be_read_is_said_once(
    train: Train, kube: KubeCluster, impatient: None
) -> None:
    record = kube.claims["results"] / "quickstart" / "progress.json"
    (record / "in the way").mkdir(parents=True)
    said = train("total_epochs=1")
    assert lines(said) == []
    (notice,) = [line for line in said if "no progress is shown" in line]
    assert notice == f"no progress is shown: cannot read {record}: Is a directory"


def test_a_volume_that_is_not_mounted_here_is_said_once(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_watch, "UNSEEN_S", 0.0)
    (results / "hold").touch()
    said: list[str] = []

    def let_go() -> None:
        until(lambda: any("no progress is shown" in line for line in said))
        (results / "hold").unlink()

    meanwhile(let_go)
    launch(said=said)
    (notice,) = [line for line in said if "progress" in line]
    assert "/results/quickstart holds no progress.json yet; is the volume" in notice


def test_what_an_earlier_job_has_left_is_not_said(
    train: Train, kube: KubeCluster, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod only says a line."""
    kube.images[IMAGE] = {"python": b"#!/bin/sh\necho done\nsleep 1\n"}
    work_dir = kube.claims["results"] / "quickstart"
    work_dir.mkdir()
    record = {"time": "x", "status": "KILLED", "percent": 38, "epoch": 2, "total_epochs": 3}
    (work_dir / "progress.json").write_text(json.dumps(record))
    said = train()
    assert lines(said) == []
    assert annotation(kube) == ""
