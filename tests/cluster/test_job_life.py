"""A job from its submission to its end, in a cluster where things go wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.pytorchjob.outcome import JobError
from components.pytorchjob.restarts import ANNOTATION
from sdpose.errors import UserError
from tests.cluster.conftest import Launch, Meanwhile, run_in_a_workflow, running, until
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.store import Object


def uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def test_whole_life(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    said: list[str] = []
    (results / "hold").touch()  # the master's end is the job's: a slow worker would say nothing

    def let_go() -> None:
        until(lambda: {"[master-0] line 3", "[worker-0] line 3"} <= set(said))
        (results / "hold").unlink()

    meanwhile(let_go)
    launch(said=said)
    (job,) = kube.jobs()
    conditions = {c["type"] for c in job["status"]["conditions"] if c["status"] == "True"}
    assert {"Created", "Succeeded"} <= conditions
    for pod in ("master-0", "worker-0"):
        lines = [line for line in said if line.startswith(f"[{pod}]")]
        rank = 0 if pod == "master-0" else 1
        assert lines[:4] == [
            f"[{pod}] {text}" for text in (f"rank {rank} of 2", "line 1", "line 2", "line 3")
        ]
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"^2\d{3}-\d\d-\d\dT\S+Z \[master-0\] done$", log, re.M)


def test_failure_is_told_and_a_resumed_run_tries_again(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    (results / "exit-1").write_text("3")
    (results / "hold").touch()
    with pytest.raises(JobError) as failure:
        launch()
    text = str(failure.value)
    assert "worker-0 (worker-0): exit code 3, Error; its last lines:" in text
    assert "    line 3\n    failing with 3" in text
    assert len(kube.jobs()) == 1, "to be looked at"

    (results / "hold").unlink()
    prepared: list[str] = []
    said = launch(before_creation=lambda: prepared.append("removed what it trained"))
    assert "had failed" in said[0]
    assert "created" in said[1]
    assert not prepared
    assert len(kube.store.created_of("pytorchjobs")) == 2


def test_preempted_and_evicted_pods_start_again(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()

    def disturb() -> None:
        worker = until(lambda: running(kube, "worker-0"))
        kube.kubelet.terminate(worker["metadata"]["name"])
        until(lambda: (new := running(kube, "worker-0")) and uid(new) != uid(worker))
        master = until(lambda: running(kube, "master-0"))
        kube.kubelet.evict(master["metadata"]["name"], "The node was low on resource: memory.")
        until(lambda: (new := running(kube, "master-0")) and uid(new) != uid(master))
        until(lambda: ANNOTATION in kube.jobs()[0]["metadata"]["annotations"])
        (results / "hold").unlink()

    meanwhile(disturb)
    said = launch()
    again = [line for line in said if "starts again" in line]
    assert "worker-0 starts again; before: exit code 143 (SIGTERM), Error (preemption)" in again[0]
    assert "master-0 starts again; before: exit code 137" in again[1]
    assert "Evicted: The node was low on resource: memory. (preemption)" in again[1]
    counts = kube.jobs()[0]["metadata"]["annotations"][ANNOTATION]
    assert counts == '{"master-0": {"preemption": 1}, "worker-0": {"preemption": 1}}'


@pytest.mark.parametrize(("code", "budget"), [(137, "crash"), (143, "preemption")])
def test_restarts_are_bounded(
    code: int, budget: str, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.reasons[137] = "OOMKilled"
    kube.images[next(i for i in kube.images if "sdpose" in i)] = {
        "python": f"#!/bin/sh\necho again\nsleep 1\nexit {code}\n".encode()
    }
    with pytest.raises(JobError, match=f"had to start again 3 times after a {budget}") as failure:
        launch(restarts={"crash": 2, "preemption": 2})
    assert "its last lines:\n    again" in str(failure.value)
    assert kube.jobs() == []
    assert kube.pods() == {}


def test_counts_of_restarts_outlive_the_launcher(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()

    def preempt() -> None:
        worker = until(lambda: running(kube, "worker-0"))
        kube.kubelet.terminate(worker["metadata"]["name"])

    said: list[str] = []
    kube.store.create("kubeflow.org", "pytorchjobs", _job_of(launch, kube, meanwhile))
    meanwhile(preempt)
    with pytest.raises(JobError, match="start again 2 times after a preemption"):
        launch(said=said, restarts={"preemption": 1})
    assert "found, it is watched again" in said[0]


def _job_of(launch: Launch, kube: KubeCluster, meanwhile: Meanwhile) -> Object:
    """The job as a launcher made it that has died since, with one restart on its account."""

    def delete() -> None:
        until(kube.jobs)
        ((key, _),) = kube.store.list("kubeflow.org", "pytorchjobs")
        made.append(kube.store.get(key))
        kube.store.delete(key)

    made: list[Object] = []
    meanwhile(delete)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch(restarts={"preemption": 1})
    until(lambda: not kube.pods())
    (job,) = made
    job.pop("status", None)
    job["metadata"]["annotations"][ANNOTATION] = '{"worker-0": {"preemption": 1}}'
    return job


def test_operator_restart_and_deadline(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    (results / "hold").touch()

    def restart() -> None:
        until(lambda: len(kube.pods()) == 2)
        kube.restart_operator()

    meanwhile(restart)
    with pytest.raises(JobError, match="was active longer than specified deadline"):
        launch(active_deadline_seconds=3)


def test_one_run_has_one_job(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    said = launch("run-1")
    assert "created" in said[0]
    again = launch("run-1")
    assert "found, it is watched again" in again[0]
    assert "[master-0] done" in again  # the log is whole, also for the second
    assert len(kube.jobs()) == 1
    launch("run-2")
    assert len(kube.jobs()) == 2
    with pytest.raises(UserError, match="exists and is not this run's job"):
        launch("run-1", priority_class="high")


def test_job_survives_a_retried_launcher_and_ends_with_the_run(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_in_a_workflow(kube, monkeypatch)
    assert launch()[0].endswith("created; it ends with Workflow w")
    kube.store.delete(("", "pods", "pose", "launcher"))
    until(lambda: "launcher" not in kube.pods())
    run_in_a_workflow(kube, monkeypatch, "launcher-again")
    assert "found, it is watched again" in launch()[0]

    (results / "hold").touch()

    def end() -> None:
        until(lambda: running(kube, "worker-0"))
        kube.store.delete(("argoproj.io", "workflows", "pose", "w"))

    meanwhile(end)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch("run-2")
    until(lambda: not kube.jobs() and not kube.pods())


# --------------------------------------------------------------------------------------- waiting


def test_unschedulable(launch: Launch, results: Path, kube: KubeCluster) -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    kube.unschedulable = lambda _pod: message
    with pytest.raises(JobError, match="did not start within 1 s") as failure:
        launch(pending_timeout_seconds=1)
    assert f"master-0, worker-0: Unschedulable: {message}" in str(failure.value)
    assert kube.jobs() == []


def test_image_cannot_be_pulled(launch: Launch, results: Path, kube: KubeCluster) -> None:
    with pytest.raises(JobError, match=r'ImagePullBackOff: Back-off pulling image "other:1"'):
        launch(pending_timeout_seconds=1, image="other:1")


def test_operators_init_image_cannot_be_pulled(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    del kube.images["alpine:3.10"]
    (results / "hold").touch()
    with pytest.raises(JobError, match="--pytorch-init-container-image of the Training Operator"):
        launch(pending_timeout_seconds=2)


def test_secret_is_missing(launch: Launch, results: Path) -> None:
    with pytest.raises(JobError, match='CreateContainerConfigError: secret "s3" not found'):
        launch(pending_timeout_seconds=1, secrets={"AWS_KEY": {"name": "s3", "key": "key"}})


def test_quota_is_exceeded(launch: Launch, results: Path, kube: KubeCluster) -> None:
    kube.quota = lambda _name: "exceeded quota: gpus, requested: 1, used: 8, limited: 8"
    with pytest.raises(JobError, match=r"cannot create its pods: .* exceeded quota: gpus"):
        launch(pending_timeout_seconds=1)


def test_nobody_takes_notice(launch: Launch, results: Path, kube: KubeCluster) -> None:
    kube.operator.stopped.set()
    kube.operator.join()
    with pytest.raises(JobError, match="the Training Operator has not taken notice of it"):
        launch(pending_timeout_seconds=1)


def test_waiting_in_kueue_is_explained_and_free(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("components.pytorchjob.supervise.PATIENCE_S", 0.5)
    kube.suspends = True  # as Kueue's webhook does
    said: list[str] = []

    def admit() -> None:
        (job,) = until(kube.jobs)
        condition = {
            "type": "QuotaReserved",
            "status": "False",
            "message": "couldn't assign flavors to pod set master: insufficient quota",
        }
        workload = {
            "metadata": {
                "namespace": "pose",
                "name": "pytorchjob-w",
                "labels": {"kueue.x-k8s.io/job-uid": uid(job)},
            },
            "status": {"conditions": [condition]},
        }
        kube.store.create("kueue.x-k8s.io", "workloads", workload)
        until(lambda: any("insufficient quota" in line for line in said))
        ((key, _),) = kube.store.list("kubeflow.org", "pytorchjobs")

        def resume(item: Object) -> None:
            item["spec"]["runPolicy"]["suspend"] = False

        kube.store.update(key, resume)

    meanwhile(admit)
    launch(said=said, queue="gpus", pending_timeout_seconds=3)
    assert "[master-0] done" in said
