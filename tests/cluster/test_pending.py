"""What is said of pods in states that the tests' kubelet does not bring about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from components.launcher.kinds import PYTORCHJOB
from components.launcher.pending import explain_pods, is_waiting

API: Any = None  # in these states a pod says it all


def worker(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = dict(zip(PYTORCHJOB.replica_labels, ("worker", "0"), strict=True))
    meta = {"name": "job-worker-0", "uid": "1", "labels": labels} | metadata
    return {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": status}


def running(ready: bool) -> dict[str, Any]:
    container = {"name": "pytorch", "ready": ready, "state": {"running": {}}}
    return {"phase": "Running", "containerStatuses": [container]}


def test_an_init_container_that_never_ends() -> None:
    """As the operator's own template does with every newer BusyBox."""
    init = {"name": "init-pytorch", "image": "busybox:1.36", "state": {"running": {}}}
    waiting = {"name": "pytorch", "state": {"waiting": {"reason": "PodInitializing"}}}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [init],
        "containerStatuses": [waiting],
    }
    (said,) = explain_pods(API, PYTORCHJOB, [worker(status)])
    assert said.startswith("worker-0: its init container init-pytorch runs (it waits for the")
    assert 'docs/cluster.md, "The Training Operator", has one that does' in said


@pytest.mark.parametrize(
    ("finalizers", "why"),
    [([], "kubectl describe pod job-worker-0"), (["example.org/hold"], "example.org/hold")],
)
def test_a_pod_that_something_else_holds(finalizers: list[str], why: str) -> None:
    due = f"{datetime.now(UTC) - timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    pod = worker(running(ready=False), deletionTimestamp=due, finalizers=finalizers)
    (said,) = explain_pods(API, PYTORCHJOB, [pod])
    assert f"pod job-worker-0 on node node-1 should have been gone by {due}" in said
    assert why in said


def test_a_pod_that_is_ending_in_time_is_not_waited_for() -> None:
    due = f"{datetime.now(UTC) + timedelta(seconds=30):%Y-%m-%dT%H:%M:%SZ}"
    assert not is_waiting(worker(running(ready=True), deletionTimestamp=due), "pytorch")


@pytest.mark.parametrize("reason", ["ContainersNotReady", "ReadinessGatesNotReady"])
def test_what_a_kubelet_calls_not_ready_is_no_lost_node(reason: str) -> None:
    condition = {"type": "Ready", "status": "False", "reason": reason}
    status = running(ready=reason == "ReadinessGatesNotReady") | {"conditions": [condition]}
    assert explain_pods(API, PYTORCHJOB, [worker(status)]) == []
