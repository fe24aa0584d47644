"""The same job as a TrainJob. Its containers are started again in their pods, as JobSet wants it,
whatever they end with."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.cluster import Cluster, parse_cluster
from components.pytorchjob import build_trainjob
from components.pytorchjob.outcome import JobError
from components.pytorchjob.restarts import ANNOTATION
from sdpose.config import Experiment
from sdpose.errors import UserError
from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kube import KubeCluster


def test_whole_life_with_a_preempted_container(
    launch: Launch, results: Path, kube: KubeCluster, tmp_path: Path
) -> None:
    (results / "exit-1").write_text("143")
    said = launch(train_api="trainjob")
    (job,) = kube.jobs("trainjobs")
    assert "Complete" in {c["type"] for c in job["status"]["conditions"]}
    assert "[node-0] rank 0 of 2" in said
    assert "node-1 starts again; before: exit code 143 (SIGTERM), Error (preemption)" in said
    assert job["metadata"]["annotations"][ANNOTATION] == '{"node-1": {"preemption": 1}}'
    first = ["rank 1 of 2", "line 1", "line 2", "line 3"]
    lines = [*first, "failing with 143", "-- its container was started again", *first, "done"]
    assert [line for line in said if line.startswith("[node-1]")] == [
        f"[node-1] {line}" for line in lines
    ]
    assert "[node-1] failing with 143\n" in (tmp_path / "log.txt").read_text()


def test_users_error_is_not_tried_again(launch: Launch, results: Path, kube: KubeCluster) -> None:
    (results / "exit-1").write_text("2")
    (results / "hold").touch()
    with pytest.raises(JobError, match="failed; starting again would not help") as failure:
        launch(train_api="trainjob")
    assert "(node-1): exit code 2, Error; its last lines:" in str(failure.value)
    assert "    line 3\n    failing with 2" in str(failure.value)
    assert failure.value.exit_code == 2
    assert (kube.jobs("trainjobs"), kube.pods()) == ([], {})


def test_evicted_pod_is_replaced_and_jobs_own_limit_ends_it(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    kube.trainer.backoff_limit = 0
    (results / "hold").touch()

    def evict() -> None:
        pod = until(lambda: running(kube, "node-0-1-"))
        kube.kubelet.evict(pod["metadata"]["name"], "The node was low on resource: memory.")

    meanwhile(evict)
    with pytest.raises(JobError, match="jobset failed due to one or more job failures") as failure:
        launch(train_api="trainjob")
    assert "(node-1): exit code 137 (SIGKILL), Evicted: The node was low" in str(failure.value)


def test_waiting_in_kueue(
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("components.pytorchjob.supervise.PATIENCE_S", 0.5)
    kube.suspends = True
    said: list[str] = []

    def admit() -> None:
        until(lambda: any(line.startswith("waiting: suspended") for line in said))
        ((key, _),) = kube.store.list("trainer.kubeflow.org", "trainjobs")
        kube.store.update(key, lambda item: item["spec"].update(suspend=False))

    meanwhile(admit)
    launch(said=said, train_api="trainjob", queue="gpus", pending_timeout_seconds=1)
    assert "[node-0] done" in said


def test_what_a_trainjob_cannot_say_is_refused(experiment: Experiment, profile: Cluster) -> None:
    cluster = parse_cluster(profile.model_dump_json(), priority_class="high")
    with pytest.raises(UserError, match="cannot set priority_class: put it into the runtime"):
        build_trainjob("job", experiment, cluster)
