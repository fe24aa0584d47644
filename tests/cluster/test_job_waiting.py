"""Jobs that do not start, of either kind: the reason is reported, and the job removed in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher.failure import JobError
from tests.cluster.conftest import Launch, Meanwhile, until
from tests.cluster.kinds import EACH_KIND, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.server import Fault

pytestmark = EACH_KIND


def test_unschedulable(
    launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    kube.unschedulable = lambda _pod: message
    with pytest.raises(JobError, match="did not start within 1 s") as failure:
        launch(pending_timeout_seconds=1)
    assert f"{', '.join(job_kind.replicas)}: Unschedulable: {message}" in str(failure.value)
    assert job_kind.jobs(kube) == []


def test_image_cannot_be_pulled(launch: Launch, results: Path, kube: KubeCluster) -> None:
    with pytest.raises(JobError, match=r'ImagePullBackOff: Back-off pulling image "other:1"'):
        launch(pending_timeout_seconds=1, image="other:1")


def test_secret_is_missing(launch: Launch, results: Path) -> None:
    with pytest.raises(JobError, match='CreateContainerConfigError: secret "s3" not found'):
        launch(pending_timeout_seconds=1, secrets={"AWS_KEY": {"name": "s3", "key": "key"}})


def test_quota_is_exceeded(launch: Launch, results: Path, kube: KubeCluster) -> None:
    kube.quota = lambda _name: "exceeded quota: gpus, requested: 1, used: 8, limited: 8"
    with pytest.raises(JobError, match=r"cannot create its pods: .* exceeded quota: gpus"):
        launch(pending_timeout_seconds=1)


def test_nobody_takes_notice(
    launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    kube.stop_operator(job_kind.plural)
    with pytest.raises(JobError, match=f"{job_kind.operator} has not taken notice of it"):
        launch(pending_timeout_seconds=1)


def test_waiting_in_kueue_is_explained_and_free(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    job_kind: JobFacts,
) -> None:
    """Also when the queue is drained while the job runs."""
    monkeypatch.setattr("components.launcher.supervise.PATIENCE_S", 0.5)
    monkeypatch.setattr("components.launcher.supervise.EXPLAIN_EVERY_S", 0.5)
    kueue = kube.install_kueue(job_kind.plural)
    kueue.set_quota("couldn't assign flavors to pod set: insufficient quota")
    (results / "hold").touch()
    said: list[str] = []

    def admit() -> None:
        until(lambda: any("insufficient quota" in line for line in said))
        assert not kube.pods()
        kueue.set_quota("")
        until(lambda: f"[{job_kind.replicas[1]}] line 3" in said)
        kueue.set_quota("the ClusterQueue is stopped")
        until(lambda: "waiting: in Kueue's queue: the ClusterQueue is stopped" in said)
        kueue.set_quota("")
        until(lambda: said.count(f"[{job_kind.replicas[0]}] line 3") > 1)
        (results / "hold").unlink()

    meanwhile(admit)
    launch(said=said, queue="gpus", pending_timeout_seconds=3)
    assert f"[{job_kind.replicas[0]}] done" in said


@pytest.mark.parametrize("installed", [True, False])
def test_a_job_that_kueue_does_not_manage_never_starts(
    installed: bool,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    monkeypatch: pytest.MonkeyPatch,
    job_kind: JobFacts,
) -> None:
    """As a PyTorchJob with Kueue 0.19 and later, at its defaults."""
    monkeypatch.setattr("components.launcher.kueue.WORKLOAD_S", 1.0)
    monkeypatch.setattr("components.kube.api.BRIEF_BUDGET_S", 1.0)
    monkeypatch.setattr("components.launcher.kinds.CONFIRM_S", 0.1)
    if installed:
        kube.install_kueue()
    with pytest.raises(JobError) as failure:
        launch(queue="gpus")
    text = str(failure.value)
    assert "waits in queue 'gpus', but no Workload appeared within 1 s" in text
    if installed:
        assert f"add {job_kind.group}/{job_kind.name.lower()} to integrations.frameworks" in text
        assert ("or use train_api: trainjob" in text) == (job_kind.train_api == "pytorchjob")
    else:
        assert "this cluster serves no workloads.kueue.x-k8s.io; install Kueue" in text
    assert not job_kind.jobs(kube), "nobody would ever start it"


def test_a_kueue_that_cannot_be_asked_is_no_reason_to_remove_the_job(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    job_kind: JobFacts,
) -> None:
    for name, value in (("WORKLOAD_S", 0.2), ("CHECK_EVERY_S", 0.2)):
        monkeypatch.setattr(f"components.launcher.kueue.{name}", value)
    monkeypatch.setattr("components.kube.api.BRIEF_BUDGET_S", 0.2)
    kueue = kube.install_kueue(job_kind.plural)
    kueue.set_quota("insufficient quota")
    forbidden = Fault(403, lambda call: call.resource == "workloads", times=10**6)
    kube.fault(forbidden)

    def admit() -> None:
        until(lambda: forbidden.met > 3)
        kueue.set_quota("")

    meanwhile(admit)
    assert f"[{job_kind.replicas[0]}] done" in launch(queue="gpus")
