"""A job from its submission to its end, in a cluster where things go wrong: every test is one of a
PyTorchJob and of a TrainJob, which pass it alike. What differs is in tests/cluster/kinds.py.
(Jobs that do not start: test_job_waiting.py.)"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.launcher.failure import JobError
from components.launcher.termination import ANNOTATION
from components.profile import Cluster, dump_cluster, parse_cluster
from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError
from tests.cluster.conftest import Launch, Meanwhile, run_in_a_workflow, running, until
from tests.cluster.kinds import EACH_KIND, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.store import Object

pytestmark = EACH_KIND


def uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def test_whole_life(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    tmp_path: Path,
    job_kind: JobFacts,
) -> None:
    said: list[str] = []
    (results / "hold").touch()  # the master's end is the job's: a slow worker would say nothing

    def let_go() -> None:
        until(lambda: {f"[{each}] line 3" for each in job_kind.replicas} <= set(said))
        (results / "hold").unlink()

    meanwhile(let_go)
    launch(said=said)
    job = job_kind.job(kube)
    assert job_kind.succeeded in {
        c["type"] for c in job["status"]["conditions"] if c["status"] == "True"
    }
    for rank, replica in enumerate(job_kind.replicas):
        lines = [line for line in said if line.startswith(f"[{replica}]")]
        assert lines[:4] == [
            f"[{replica}] {text}" for text in (f"rank {rank} of 2", "line 1", "line 2", "line 3")
        ]
    log = (tmp_path / "log.txt").read_text()
    first = re.escape(job_kind.replicas[0])
    assert re.search(rf"^2\d{{3}}-\d\d-\d\dT\S+Z \[{first}\] done$", log, re.M)


def test_failure_is_reported_and_a_resumed_run_tries_again(
    launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    (results / "exit-1").write_text("3")
    (results / "hold").touch()
    with pytest.raises(JobError) as failure:
        launch()
    text = str(failure.value)
    assert f"({job_kind.replicas[1]}): exit code 3, Error; its last lines:" in text
    assert "    line 3\n    failing with 3" in text
    assert failure.value.exit_code == 3
    assert len(job_kind.jobs(kube)) == 1, "to be looked at"
    assert [pod for pod in kube.pods() if job_kind.pods[1] in pod], "and so is its pod"

    (results / "hold").unlink()
    prepared: list[str] = []
    said = launch(before_creation=lambda: prepared.append("removed what it trained"))
    assert "had failed" in said[0]
    assert "created" in said[1]
    assert not prepared
    assert job_kind.ever(kube) == 2


def test_preempted_and_evicted_pods_start_again(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    tmp_path: Path,
    job_kind: JobFacts,
) -> None:
    (results / "hold").touch()
    first, second = job_kind.replicas

    def another(pod: str, than: Object) -> bool:
        new = running(kube, pod)
        return new is not None and uid(new) != uid(than)

    said: list[str] = []

    def disturb() -> None:
        until(lambda: {f"[{each}] line 3" for each in job_kind.replicas} <= set(said))
        second_pod = until(lambda: running(kube, job_kind.pods[1]))
        kube.kubelet.terminate(second_pod["metadata"]["name"])
        until(lambda: another(job_kind.pods[1], second_pod))
        first_pod = until(lambda: running(kube, job_kind.pods[0]))
        kube.kubelet.evict(first_pod["metadata"]["name"], "The node was low on resource: memory.")
        until(lambda: another(job_kind.pods[0], first_pod))
        until(lambda: first in job_kind.job(kube)["metadata"]["annotations"].get(ANNOTATION, ""))
        (results / "hold").unlink()

    meanwhile(disturb)
    launch(said=said)
    again = [line for line in said if "starts again" in line]
    assert f"{second} starts again; before: exit code 143 (SIGTERM), Error (preemption)" in again[0]
    assert f"{first} starts again; before: exit code 137" in again[1]
    assert "Evicted: The node was low on resource: memory. (preemption)" in again[1]
    counts = job_kind.job(kube)["metadata"]["annotations"][ANNOTATION]
    assert json.loads(counts) == {first: {"preemption": 1}, second: {"preemption": 1}}
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines.count(f"[{second}] rank 1 of 2") == 2
    assert lines.index(f"[{second}] terminated") < len(lines) - lines[::-1].index(
        f"[{second}] line 3"
    )


@pytest.mark.parametrize(("code", "budget"), [(137, "crash"), (143, "preemption")])
def test_restarts_are_bounded(
    code: int, budget: str, launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    kube.reasons[137] = "OOMKilled"
    kube.images[next(i for i in kube.images if "sdpose" in i)] = {
        "python": f"#!/bin/sh\necho again\nsleep 1\nexit {code}\n".encode()
    }
    with pytest.raises(JobError, match=f"had to start again 3 times after a {budget}") as failure:
        launch(restarts={"crash": 2, "preemption": 2})
    assert "its last lines:\n    again" in str(failure.value)
    assert job_kind.jobs(kube) == []
    assert kube.pods() == {}


def test_counts_of_restarts_outlive_the_launcher(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, job_kind: JobFacts
) -> None:
    (results / "hold").touch()

    def preempt() -> None:
        pod = until(lambda: running(kube, job_kind.pods[1]))
        kube.kubelet.terminate(pod["metadata"]["name"])

    said: list[str] = []
    job = _job_of(launch, kube, meanwhile, job_kind)
    kube.store.create(job_kind.group, job_kind.plural, job)
    meanwhile(preempt)
    with pytest.raises(JobError, match="start again 2 times after a preemption"):
        launch(said=said, restarts={"preemption": 1})
    assert "found, it is watched again" in said[0]


def _job_of(launch: Launch, kube: KubeCluster, meanwhile: Meanwhile, job_kind: JobFacts) -> Object:
    """The job as a launcher made it that has died since, with one restart on its account."""

    def delete() -> None:
        until(lambda: job_kind.jobs(kube))
        ((key, _),) = kube.store.list(job_kind.group, job_kind.plural)
        made.append(kube.store.get(key))
        kube.store.delete(key)

    made: list[Object] = []
    meanwhile(delete)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch(restarts={"preemption": 1})
    until(lambda: not kube.pods())
    (job,) = made
    job.pop("status", None)
    job["metadata"]["annotations"][ANNOTATION] = (
        f'{{"{job_kind.replicas[1]}": {{"preemption": 1}}}}'
    )
    return job


def test_a_restart_is_counted_once_however_many_launchers_see_it(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, job_kind: JobFacts
) -> None:
    """A TrainJob's pods that have ended stay: the next launcher finds them beside the others."""
    second = job_kind.replicas[1]
    (results / "hold").touch()
    said: list[str] = []

    def preempt() -> None:
        until(lambda: f"[{second}] line 3" in said)
        kube.kubelet.terminate(running(kube, job_kind.pods[1])["metadata"]["name"])
        until(lambda: ANNOTATION in job_kind.job(kube)["metadata"]["annotations"])
        (results / "hold").unlink()

    meanwhile(preempt)
    launch(said=said)
    counts = job_kind.job(kube)["metadata"]["annotations"][ANNOTATION]
    assert json.loads(counts) == {second: {"preemption": 1}}
    said = launch(restarts={"preemption": 1})
    assert "found, it is watched again" in said[0]
    assert not [line for line in said if "starts again" in line]
    assert job_kind.job(kube)["metadata"]["annotations"][ANNOTATION] == counts


def test_operator_restart_and_deadline(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, job_kind: JobFacts
) -> None:
    (results / "hold").touch()

    def restart() -> None:
        until(lambda: len(kube.pods()) == 2)
        kube.restart_operator(job_kind.plural)

    meanwhile(restart)
    with pytest.raises(JobError, match=job_kind.deadline):
        launch(active_deadline_seconds=3)
    until(lambda: not [p for p in kube.pods().values() if p["status"]["phase"] == "Running"])


def test_one_run_has_one_job(
    launch: Launch, results: Path, kube: KubeCluster, job_kind: JobFacts
) -> None:
    said = launch("run-1")
    assert "created" in said[0]
    again = launch("run-1")
    assert "found, it is watched again" in again[0]
    assert f"[{job_kind.replicas[0]}] done" in again  # the log is whole, also for the second
    assert len(job_kind.jobs(kube)) == 1
    launch("run-2")
    assert len(job_kind.jobs(kube)) == 2
    with pytest.raises(UserError, match="exists and is not this run's job"):
        launch("run-1", labels={"team": "other"})


def test_two_launchers_at_once_share_a_job(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    profile: Cluster,
    experiment: Experiment,
    repository: Path,
    tmp_path: Path,
    job_kind: JobFacts,
) -> None:
    (results / "hold").touch()
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(dump_experiment(experiment))
    changed = parse_cluster(profile.model_dump_json(), train_api=job_kind.train_api)
    (folder / "cluster.yaml").write_text(dump_cluster(changed))
    said: list[str] = []
    others: list[str] = []

    def let_go() -> None:
        until(lambda: any(line.startswith(f"[{job_kind.replicas[1]}]") for line in said))
        watch = ("watch", job_kind.plural)
        until(lambda: sum((call.verb, call.resource) == watch for call in kube.calls) > 1)
        (results / "hold").unlink()

    def launch_another() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.launcher", "job", str(folder)],
            cwd=repository,
            env=os.environ | {"SDPOSE_RUN_ID": "run-1"},
            capture_output=True,
            text=True,
            check=True,
        )
        others.extend(done.stdout.splitlines())

    meanwhile(let_go)
    meanwhile(launch_another)
    launch(said=said)
    until(lambda: others)
    assert job_kind.ever(kube) == 1
    for lines in (said, others):
        assert f"[{job_kind.replicas[0]}] done" in lines


def test_cancelling_removes_the_job_and_its_pods(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, job_kind: JobFacts
) -> None:
    (results / "hold").touch()
    said: list[str] = []

    def cancel() -> None:
        until(lambda: len([p for p in job_kind.pods if running(kube, p)]) == 2)
        until(lambda: any(line.startswith("[") for line in said))
        os.kill(os.getpid(), signal.SIGTERM)

    meanwhile(cancel)
    with pytest.raises(SystemExit) as ended:
        launch(said=said)
    assert ended.value.code == 128 + signal.SIGTERM
    assert any(line.startswith(f"SIGTERM: removing {job_kind.name}") for line in said)
    assert job_kind.jobs(kube) == []
    assert kube.pods() == {}


def test_job_survives_a_retried_launcher_and_ends_with_the_run(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    job_kind: JobFacts,
) -> None:
    run_in_a_workflow(kube, monkeypatch)
    assert launch()[0].endswith("created; it ends with Workflow w")
    kube.store.delete(("", "pods", "pose", "launcher"))
    until(lambda: "launcher" not in kube.pods())
    run_in_a_workflow(kube, monkeypatch, "launcher-again")
    assert "found, it is watched again" in launch()[0]

    (results / "hold").touch()

    def end() -> None:
        until(lambda: running(kube, job_kind.pods[1]))
        kube.store.delete(("argoproj.io", "workflows", "pose", "w"))

    meanwhile(end)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch("run-2")
    until(lambda: not job_kind.jobs(kube) and not kube.pods())
