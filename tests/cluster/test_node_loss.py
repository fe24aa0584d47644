"""A node dies without a word: what the launcher says meanwhile, and where training goes on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.launcher import lifecycle, supervise
from components.launcher.build import build_job, job_name
from components.launcher.failure import JobError
from components.profile import Cluster
from sdpose.config import Experiment
from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.nodes import OUT_OF_SERVICE
from tests.cluster.kube.store import Object
from tests.conftest import REPOSITORY


def _tolerations() -> list[Object]:
    """Those of docs/cluster.md, for a second."""
    guide = (REPOSITORY / "docs/cluster.md").read_text()
    (block,) = re.findall(r"```yaml\n(   tolerations:\n.*?)```", guide, re.DOTALL)
    return [each | {"toleration_seconds": 1} for each in yaml.safe_load(block)["tolerations"]]


TOLERATES = _tolerations()
TIMEOUT_S = 5


@pytest.fixture
def two_nodes(kube: KubeCluster, results: Path, monkeypatch: pytest.MonkeyPatch) -> KubeCluster:
    """One pod on each; the launcher says soon what it waits for."""
    monkeypatch.setattr(supervise, "PATIENCE_S", 0.5)
    monkeypatch.setattr(supervise, "EXPLAIN_EVERY_S", 0.5)
    # Of a node that is lost nobody gets the last lines.
    monkeypatch.setattr(supervise, "LAST_LINES_S", 2.0)
    monkeypatch.setattr(lifecycle, "REMOVAL_MARGIN_S", 2.0)
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
    launch(said=said)
    assert any("worker-0 starts again; before: exit code 137" in line for line in said)


def test_a_silent_node_may_train_on(
    launch: Launch,
    results: Path,
    two_nodes: KubeCluster,
    meanwhile: Meanwhile,
    experiment: Experiment,
    profile: Cluster,
) -> None:
    """pending_timeout does not end a job as long as Kubernetes lets the pod stay."""
    kube, said = two_nodes, list[str]()
    job = build_job(job_name(experiment, "run-1"), experiment, profile, None)
    kube.store.create("kubeflow.org", "pytorchjobs", job)
    # With a timeout this short they must run before the launcher looks.
    until(lambda: running(kube, "worker-0") and running(kube, "master-0"))
    kube.kubelet.lose("node-2")

    def wait() -> None:
        until(lambda: any("node node-2 has not reported" in line for line in said))
        time.sleep(2 * TIMEOUT_S)
        (results / "hold").unlink()

    meanwhile(wait)
    launch(said=said, pending_timeout_seconds=TIMEOUT_S)
    assert "found, it is watched again" in said[0]


def test_a_trainjob_goes_on_elsewhere(
    launch: Launch, results: Path, two_nodes: KubeCluster, meanwhile: Meanwhile
) -> None:
    """Its Job makes the new pod when the old one is asked to end, or, if the runtime has a
    podFailurePolicy, when it is gone."""
    kube, said = two_nodes, list[str]()

    def lose() -> None:
        pod = until(lambda: running(kube, "node-0-1"))
        node = pod["spec"]["nodeName"]
        kube.kubelet.lose(node)
        until(lambda: any(f"node-1: node {node} has not reported since" in s for s in said))
        key = ("", "pods", "pose", pod["metadata"]["name"])
        until(lambda: kube.store.get(key)["metadata"].get("deletionTimestamp"))
        kube.delete_node(node)
        again = until(lambda: started_again(kube, pod))
        assert again["spec"]["nodeName"] != node
        (results / "hold").unlink()

    meanwhile(lose)
    launch(said=said, train_api="trainjob", tolerations=TOLERATES)
    assert any("node-1 starts again; before: " in line for line in said)


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
