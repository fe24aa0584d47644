"""A node dies without a word: what the launcher says meanwhile, and where training goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.pytorchjob import supervise
from components.pytorchjob.outcome import JobError
from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.nodes import OUT_OF_SERVICE, UNREACHABLE
from tests.cluster.kube.store import Object

# As docs/cluster.md shows it: shorter than the 5 minutes that Kubernetes gives.
TOLERATES = [
    {
        "key": UNREACHABLE,
        "operator": "Exists",
        "effect": "NoExecute",
        "toleration_seconds": 1,
    }
]


@pytest.fixture
def two_nodes(kube: KubeCluster, results: Path, monkeypatch: pytest.MonkeyPatch) -> KubeCluster:
    """One pod on each; the launcher says soon what it waits for."""
    monkeypatch.setattr(supervise, "PATIENCE_S", 0.5)
    monkeypatch.setattr(supervise, "EXPLAIN_EVERY_S", 0.5)
    kube.add_node("node-2")
    (results / "hold").touch()
    return kube


def started_again(kube: KubeCluster, pod: Object) -> Object | None:
    """The pod that has taken another's place, if its program runs."""
    role = "worker-0" if "worker" in pod["metadata"]["name"] else "node-0-1"
    found = running(kube, role)
    return found if found and found["metadata"]["uid"] != pod["metadata"]["uid"] else None


REMEDIES: dict[str, Callable[[KubeCluster, Object], Any]] = {
    "the Node object is deleted": lambda kube, pod: kube.delete_node("node-2"),
    "out of service": lambda kube, pod: kube.taint_node("node-2", OUT_OF_SERVICE),
    "the pod is deleted by force": lambda kube, pod: kube.store.remove(
        ("", "pods", "pose", pod["metadata"]["name"])
    ),
    "the node is back": lambda kube, pod: kube.kubelet.bring_back("node-2"),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_place_of_a_lost_pod_is_taken_when_it_is_gone(
    remedy: str, launch: Launch, results: Path, two_nodes: KubeCluster, meanwhile: Meanwhile
) -> None:
    kube, said = two_nodes, list[str]()

    def lose() -> None:
        worker = until(lambda: running(kube, "worker-0"))
        name = worker["metadata"]["name"]
        assert worker["spec"]["nodeName"] == "node-2"
        kube.kubelet.lose("node-2")
        until(lambda: any("worker-0: node node-2 has not reported since 2" in s for s in said))
        until(lambda: kube.pods()[name]["metadata"].get("deletionTimestamp"))
        until(lambda: any("kubectl delete node node-2" in line for line in said))
        assert not started_again(kube, worker)
        REMEDIES[remedy](kube, worker)
        again = until(lambda: started_again(kube, worker))
        if remedy != "the node is back":
            assert again["spec"]["nodeName"] == "node-1"
        (results / "hold").unlink()

    meanwhile(lose)
    launch(said=said, tolerations=TOLERATES)
    (restart,) = [line for line in said if "starts again; before" in line]
    assert "worker-0 starts again; before: " in restart
    assert "DeletionBy" in restart
    assert restart.endswith("(preemption)")


def test_a_node_that_is_back_in_time_costs_one_restart(
    launch: Launch, results: Path, two_nodes: KubeCluster, meanwhile: Meanwhile
) -> None:
    """Before its pods are asked to end: Kubernetes's default of 5 minutes."""
    kube, said = two_nodes, list[str]()

    def lose() -> None:
        worker = until(lambda: running(kube, "worker-0"))
        kube.kubelet.lose("node-2")
        until(lambda: any("node node-2 has not reported" in line for line in said))
        kube.kubelet.bring_back("node-2")
        until(lambda: started_again(kube, worker))
        (results / "hold").unlink()

    meanwhile(lose)
    # A node that is silent may train on: that is no reason to end the job.
    launch(said=said, pending_timeout_seconds=1)
    assert any("worker-0 starts again; before: exit code 137" in line for line in said)


def test_waiting_for_a_place_is_bounded(
    launch: Launch, two_nodes: KubeCluster, meanwhile: Meanwhile
) -> None:
    kube = two_nodes

    def lose() -> None:
        until(lambda: running(kube, "worker-0") and running(kube, "master-0"))
        kube.kubelet.lose("node-2")

    meanwhile(lose)
    with pytest.raises(JobError, match="did not start within 2 s") as failure:
        launch(tolerations=TOLERATES, pending_timeout_seconds=2, termination_grace_seconds=1)
    assert "worker-0: node node-2 has not reported since" in str(failure.value)
    assert "kubectl taint node node-2 node.kubernetes.io/out-of-service" in str(failure.value)
