"""What an API server does to a client that stays for weeks: no second job, no lost line."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from components.kube import api, connection, kubeconfig
from components.kube.errors import ApiRefusedError, ApiUnavailableError
from components.launcher.failure import JobError
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


def test_retry_after_is_kept(launch: Launch, results: Path, kube: KubeCluster) -> None:
    asked: list[float] = []

    def noted(call: Call) -> bool:
        asked.extend([time.monotonic()] * creates(call))
        return creates(call) and len(asked) == 1

    kube.fault(Fault(429, noted, times=10**6, retry_after=2))
    launch()
    first, second = asked
    assert second - first > 1.9
    assert created(kube) == 1


def test_an_outage_that_outlasts_the_job_is_neither_retried_nor_logged(
    launch: Launch, results: Path, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of its watch lived for RETRY_BUDGET_S, and logged in the next one's name."""
    monkeypatch.setattr(api, "NOTICE_AFTER_S", 0.0)
    watches = Fault(503, lambda call: (call.verb, call.resource) == ("watch", "pods"), times=10**6)
    kube.fault(watches)
    said: list[str] = []
    launch(said=said)
    assert "[master-0] done" in said
    until(lambda: not [t.name for t in threading.enumerate() if t.name == "watch pods"], 60)
    met = watches.met
    time.sleep(2)
    assert watches.met == met > 0


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
    monkeypatch.setattr(api, "REFUSAL_BUDGET_S", 1.0)
    (results / "hold").touch()

    def revoke() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.tokens = set()
        kube.store.compact()

    meanwhile(revoke)
    with pytest.raises(ApiRefusedError, match="does not accept our credentials") as error:
        launch()
    assert "the job goes on: `python pipelines/submit.py resume run-1` watches" in str(error.value)
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
    with pytest.raises(
        ApiUnavailableError, match="answered with errors for 1 s: HTTP 503"
    ) as error:
        launch()
    assert "the job goes on" in str(error.value)
    assert len(kube.jobs()) == 1


def test_what_another_try_does_not_change_is_said_at_once(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    denied = 'admission webhook "v.pytorchjob" denied the request: no'
    kube.fault(Fault(403, creates, message=denied))
    with pytest.raises(ApiRefusedError, match=f"Kubernetes forbids it: {denied}.*no job"):
        launch()
    kube.unknown = {"trainjobs"}
    with pytest.raises(ApiRefusedError, match="knows no trainjobs: install their operator"):
        launch(train_api="trainjob")
    kube.fault(Fault(422, creates))
    with pytest.raises(ApiRefusedError, match=r"Kubernetes refuses POST .*; there is no job$"):
        launch()
    assert created(kube) == 0


def test_account_without_rights_is_refused_at_once(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.fault(Fault(403, times=10**6, message="pytorchjobs is forbidden: User x cannot get"))
    with pytest.raises(ApiRefusedError, match="forbids it: pytorchjobs is forbidden: User x"):
        launch()


def test_restarted_server_that_does_not_know_the_roles_yet(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    """All requests are forbidden for a moment, as after a kill -9 of kube-apiserver."""
    (results / "hold").touch()
    early = Fault(403, times=10**6, message="pods is forbidden: User x cannot list resource pods")

    def restart() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.fault(early)
        kube.cut_streams()
        until(lambda: early.met > 3)
        early.times = 0
        (results / "hold").unlink()

    meanwhile(restart)
    assert "[master-0] done" in launch()


def test_launcher_without_the_right_to_list_pods_removes_nothing(
    launch: Launch, results: Path, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the one that created the job nor the next one, which found it."""
    monkeypatch.setattr(api, "REFUSAL_BUDGET_S", 1.0)
    (results / "hold").touch()
    why = "pods is forbidden: User x cannot list resource pods"
    lists_pods = Fault(403, lambda c: (c.verb, c.resource) == ("list", "pods"), 10**6, message=why)
    kube.fault(lists_pods)
    for first in ("created", "found, it is watched again"):
        said: list[str] = []
        with pytest.raises(ApiRefusedError, match=f"forbids it: {why}.*; the job goes on: "):
            launch(said=said)
        assert first in said[0]
        until(lambda: running(kube, "master-0") and running(kube, "worker-0"))
    lists_pods.times = 0
    (results / "hold").unlink()
    assert "[master-0] done" in launch()
    assert created(kube) == 1


def test_a_long_outage_is_said_with_its_reason(
    launch: Launch, results: Path, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the operator's webhook is down: there is no job yet, and none is promised."""
    monkeypatch.setattr(api, "NOTICE_AFTER_S", 0.5)
    why = 'failed calling webhook "validator.pytorchjob": connection refused'
    kube.fault(Fault(500, creates, times=3, message=why))
    said = launch()
    assert said[0].startswith(
        f"waiting for the Kubernetes API: HTTP 500 Internal Server Error: {why}"
    )
    assert said[1] == "the Kubernetes API answers again"

    monkeypatch.setattr(api, "RETRY_BUDGET_S", 1.0)
    kube.fault(Fault(500, creates, times=10**6, message=why))
    with pytest.raises(ApiUnavailableError) as error:
        launch("run-2")
    assert str(error.value).endswith(f"HTTP 500 Internal Server Error: {why}; there is no job")


@pytest.mark.parametrize(
    "content", ["", "apiVersion: v1\nkind: Config\nclus", "clusters: [{name: c"]
)
def test_kubeconfig_that_is_being_rewritten_is_read_again(
    content: str, kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kube.kubeconfig()
    whole = path.read_text()
    path.write_text(content)
    sleep = time.sleep

    def written(_seconds: float) -> None:
        path.write_text(whole)
        sleep(0)

    monkeypatch.setattr(kubeconfig.time, "sleep", written)
    assert connection.connect().configuration.host == kube.url


def test_kubeconfig_that_is_broken_is_said(
    kube: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kube.kubeconfig()
    path.write_text("")
    os.utime(path, (0, 0))
    with pytest.raises(UserError, match=r"no access to Kubernetes: the kubeconfig .*file is empty"):
        connection.connect()


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
