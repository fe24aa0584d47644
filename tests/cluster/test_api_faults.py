"""What an API server does to a client that stays for weeks: no second job, no lost line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.pytorchjob import api
from components.pytorchjob.api import ApiUnavailableError
from components.pytorchjob.outcome import JobError
from sdpose.errors import UserError
from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.server import Call, Fault


def creates(call: Call) -> bool:
    return (call.verb, call.resource) == ("create", "pytorchjobs")


def created(kube: KubeCluster) -> int:
    """Jobs that there have ever been, whatever is left of them."""
    return len(kube.store.created_of("pytorchjobs"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lose", creates, times=2),
        Fault("refuse", creates),
        Fault(500, creates, times=2),
        Fault(504, creates),
        Fault("slow", creates, seconds=2.5),
    ],
    ids=lambda fault: str(fault.what),
)
def test_creation_that_fails_or_seems_to_makes_one_job(
    fault: Fault, launch: Launch, results: Path, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "READ_TIMEOUT_S", 1.0)
    kube.fault(fault)
    said = launch()
    assert fault.met > 0
    assert created(kube) == 1
    assert "created" in said[0] or "found" in said[0]
    assert "[master-0] done" in said


def test_retry_after_is_kept(
    launch: Launch, results: Path, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(api.time, "sleep", lambda wait: (waits.append(wait), sleep(wait))[1])
    kube.fault(Fault(429, creates, retry_after=2))
    launch()
    assert 2.0 in waits
    assert created(kube) == 1


def test_watches_and_logs_that_break_lose_nothing(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()
    faults = [
        Fault("cut", lambda call: call.verb == "watch", times=3, seconds=0.2),
        Fault(410, lambda call: call.verb == "watch", times=2),
        Fault(503, lambda call: call.verb == "watch"),
        Fault("cut", lambda call: call.resource == "pods/log", times=4),
        Fault(500, lambda call: call.resource == "pods/log", times=2),
        Fault("refuse", lambda call: call.verb == "list", times=2),
    ]
    kube.fault(*faults)

    said: list[str] = []

    def compact() -> None:
        until(lambda: {"[master-0] line 3", "[worker-0] line 3"} <= set(said))
        until(lambda: all(fault.met == fault.times for fault in faults))
        kube.store.compact()
        (results / "hold").unlink()

    meanwhile(compact)
    launch(said=said)
    for pod in ("master-0", "worker-0"):
        lines = [line.partition("] ")[2] for line in said if line.startswith(f"[{pod}]")]
        assert lines[1:4] == ["line 1", "line 2", "line 3"]
        assert len(set(lines)) == len(lines)
    assert "[master-0] done" in said  # the worker may be ended before it says so
    assert created(kube) == 1


def test_replaced_token_is_read_again(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()

    def replace() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.tokens = {"token-2"}
        for plural in ("pods", "pytorchjobs"):  # connections that are open stay so
            kube.fault(Fault("cut", lambda call, plural=plural: call.resource == plural))
        kube.store.compact()
        time.sleep(1.5)
        kube.kubeconfig("token-2")
        (results / "hold").unlink()

    meanwhile(replace)
    said = launch()
    assert "[master-0] done" in said


def test_credentials_that_stay_expired_leave_the_job_alone(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "UNAUTHORIZED_BUDGET_S", 1.0)
    (results / "hold").touch()

    def revoke() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.tokens = set()
        kube.store.compact()

    meanwhile(revoke)
    with pytest.raises(UserError, match="does not accept our credentials"):
        launch()
    assert len(kube.jobs()) == 1


def test_api_that_stays_away_leaves_the_job_alone(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "RETRY_BUDGET_S", 1.0)
    (results / "hold").touch()

    def break_down() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.fault(Fault(503, times=10**6))
        kube.store.compact()

    meanwhile(break_down)
    with pytest.raises(ApiUnavailableError, match="has not answered for 1 s: HTTP 503"):
        launch()
    assert len(kube.jobs()) == 1


def test_what_retrying_does_not_mend_is_said_at_once(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.fault(Fault(403, creates))
    with pytest.raises(UserError, match="Kubernetes forbids it"):
        launch()
    kube.unknown = {"trainjobs"}
    with pytest.raises(UserError, match="knows no trainjobs: install their operator"):
        launch(train_api="trainjob")
    kube.fault(Fault(422, creates))
    with pytest.raises(UserError, match="Kubernetes refuses POST"):
        launch()
    assert created(kube) == 0


def test_job_deleted_by_somebody_else(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()

    def delete() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.delete("pytorchjobs", kube.jobs()[0]["metadata"]["name"])

    meanwhile(delete)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch()
    until(lambda: not kube.pods())
