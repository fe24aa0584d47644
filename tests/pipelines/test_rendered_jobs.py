"""What is printed without a cluster is accepted by the oldest supported operators."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from servers.objects import ObjectServer

from components.launcher import job_name
from components.launcher.__main__ import cli
from components.profile import dump_cluster, load_cluster
from pipelines.cluster.run_on_cluster import show
from pipelines.kfp_client.endpoint import Endpoint
from pipelines.kfp_client.runs import cancel
from pipelines.options import SubmitOptions
from sdpose.config import dump_experiment, load_experiment
from tests.cluster.kube.admission import Admission
from tests.cluster.kube.cluster import STOCK_RUNTIME
from tests.cluster.kube.crds import TRAINERS, Crds
from tests.cluster.kube.store import Object
from tests.shipped import CRDS

CLUSTER = Path(__file__).with_name("cluster.yaml")
RENDERED = [("pytorchjob", "PyTorchJob"), ("trainjob", "TrainJob"), ("auto", "TrainJob")]


def assert_accepted(job: Object) -> None:
    """By every supported version."""
    for trainer in TRAINERS:
        admission = Admission(Crds(CRDS, trainer), lambda _job: STOCK_RUNTIME)
        admission.check(f"{job['kind'].lower()}s", job, strict=True)


def notes_of(train_api: str) -> list[str]:
    """What must be said beside the manifest."""
    return {
        "pytorchjob": [],
        "trainjob": ["from TrainingRuntime sdpose, not from the profile: priority_class"],
        "auto": ["train_api auto: assumed is a TrainJob", "from TrainingRuntime sdpose"],
    }[train_api]


@pytest.mark.parametrize(("train_api", "kind"), RENDERED)
def test_render(train_api: str, kind: str) -> None:
    arguments = ["render", "--exp", "sdpose_t", "--cluster", str(CLUSTER)]
    done = CliRunner().invoke(cli, [*arguments, "--train-api", train_api])
    assert done.exit_code == 0, done.output
    job: Object = yaml.safe_load(done.stdout)
    assert job["kind"] == kind
    assert_accepted(job)
    lines = done.stderr.splitlines()
    assert len(lines) == len(notes_of(train_api))
    for line, note in zip(lines, notes_of(train_api), strict=True):
        assert line.startswith(note)


@pytest.mark.parametrize(("train_api", "kind"), RENDERED)
def test_dry_run(
    train_api: str,
    kind: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = load_cluster(CLUSTER, train_api=train_api)
    experiment = load_experiment("sdpose_t", **cluster.places("sdpose_t"))
    show(experiment, cluster, SubmitOptions(dry_run=True))
    printed = capfd.readouterr().out
    documents = [each for each in yaml.safe_load_all(printed) if each.get("kind") == kind]
    assert len(documents) == 1
    assert_accepted(documents[0])
    for note in notes_of(train_api):
        assert f"\n# {note}" in printed


@pytest.mark.parametrize("plural", ["trainjobs", "pytorchjobs"])
def test_cancel_finds_whichever_job_auto_has_made(
    plural: str,
    object_server: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(object_server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    experiment = load_experiment("sdpose_t")
    group = {"trainjobs": "trainer.kubeflow.org/v1alpha1", "pytorchjobs": "kubeflow.org/v1"}[plural]
    job = f"/apis/{group}/namespaces/pose/{plural}/{job_name(experiment, 'run-1')}"
    object_server.objects[job] = {"kind": "Job"}
    parameters = {
        "experiment": dump_experiment(experiment),
        "cluster_profile": dump_cluster(load_cluster(CLUSTER, train_api="auto")),
    }
    run = {"run_id": "run-1", "state": "FAILED", "runtime_config": {"parameters": parameters}}
    kfp = SimpleNamespace(run=lambda _id: run, endpoint=Endpoint("http://kfp.test", "the test"))
    cancel(kfp, "run-1")  # type: ignore[arg-type]
    assert object_server.objects == {}
    assert "is being removed; training saves a checkpoint first" in capfd.readouterr().out


def test_cancel_without_access_names_both_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    experiment = load_experiment("sdpose_t")
    parameters = {
        "experiment": dump_experiment(experiment),
        "cluster_profile": dump_cluster(load_cluster(CLUSTER, train_api="auto")),
    }
    run = {"run_id": "run-1", "state": "FAILED", "runtime_config": {"parameters": parameters}}
    kfp = SimpleNamespace(run=lambda _id: run, endpoint=Endpoint("http://kfp.test", "the test"))
    cancel(kfp, "run-1")  # type: ignore[arg-type]
    name = job_name(experiment, "run-1")
    last = capfd.readouterr().out.splitlines()[-1]
    assert f"kubectl -n pose delete trainjobs,pytorchjobs {name}" in last
