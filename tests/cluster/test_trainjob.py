"""What only a TrainJob has: versions that take different things, and a runtime that says the rest.
(The life of a job of either kind: test_job_life.py.)"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.launcher import build_job, build_trainjob
from components.launcher.compatibility import fit
from components.launcher.failure import JobError
from components.launcher.kinds import FAILED_ANNOTATION
from components.launcher.termination import ANNOTATION
from components.profile import Cluster, parse_cluster
from sdpose.config import Experiment
from sdpose.errors import UserError
from tests.cluster.conftest import Launch, Meanwhile, running, until
from tests.cluster.kinds import TRAINJOB, JobFacts
from tests.cluster.kube import KubeCluster
from tests.cluster.kube.admission import Admission
from tests.cluster.kube.cluster import STOCK_RUNTIME
from tests.cluster.kube.crds import TRAINERS, Crds
from tests.cluster.kube.server import Call, Fault
from tests.cluster.kube.store import Object, StatusError
from tests.shipped import CRDS

STOCK: dict[str, Any] = {"runtime": "torch-distributed", "runtime_kind": "ClusterTrainingRuntime"}
every_trainer = pytest.mark.parametrize("trainer_version", TRAINERS)


@pytest.fixture
def job_kind() -> JobFacts:
    return TRAINJOB


def grace_of(job: Object) -> int | None:
    """What a TrainJob patches into its pods."""
    spec = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    pod = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    found: int | None = pod.get("terminationGracePeriodSeconds")
    return found


# ---------------------------------------------------------------------------------------- versions


@every_trainer
def test_every_supported_version_trains(
    trainer_version: str, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    said = launch()
    job = TRAINJOB.job(kube)
    if trainer_version == "2.2.0":
        assert "takes no terminationGracePeriodSeconds (Trainer 2.3 does): it comes from" in said[0]
        assert grace_of(job) is None
    else:
        assert "created" in said[0]
        assert grace_of(job) == 5
    assert "[node-0] done" in said


def test_what_the_newest_takes_is_refused_by_the_oldest(
    experiment: Experiment, profile: Cluster
) -> None:
    """That is why a job is fitted to the cluster."""
    job = build_trainjob("job", experiment, profile)
    for trainer in TRAINERS[1:]:
        Admission(Crds(CRDS, trainer)).check_schema("trainjobs", job, strict=True)
    oldest = Admission(Crds(CRDS, TRAINERS[0]))
    with pytest.raises(StatusError, match="'terminationGracePeriodSeconds' was unexpected"):
        oldest.check_schema("trainjobs", job, strict=True)
    oldest.check_schema("trainjobs", fit(job)[0], strict=True)


@pytest.mark.parametrize("trainer_version", ["2.2.0"])
@pytest.mark.parametrize("status", [403, 404])
def test_a_schema_that_cannot_be_read_is_the_oldest(
    status: int, launch: Launch, results: Path, kube: KubeCluster
) -> None:
    kube.fault(Fault(status, lambda call: call.resource.startswith("/openapi"), times=9))
    assert "takes no terminationGracePeriodSeconds" in launch()[0]


@pytest.mark.parametrize("trainer_version", ["2.2.0"])
def test_an_upgrade_between_two_launchers_changes_no_job(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    launch()
    kube.upgrade_trainer(TRAINERS[-1])
    assert "found, it is watched again" in launch()[0]
    assert TRAINJOB.ever(kube) == 1


def test_a_trainer_that_is_too_old_is_named(
    experiment: Experiment, profile: Cluster, trainjob_schema: Object
) -> None:
    """2.1 has podTemplateOverrides and no runtimePatches."""
    job = build_trainjob("job", experiment, profile)
    del trainjob_schema["properties"]["spec"]["properties"]["runtimePatches"]
    with pytest.raises(UserError) as refused:
        fit(job, trainjob_schema)
    assert "does not know spec.runtimePatches: its operator is older than" in str(refused.value)


@pytest.fixture
def trainjob_schema(kube: KubeCluster) -> Object:
    document = kube.crds.openapi("trainer.kubeflow.org", "v1alpha1", set())
    assert document is not None
    return copy.deepcopy(
        document["components"]["schemas"]["org.kubeflow.trainer.v1alpha1.TrainJob"]
    )


# ----------------------------------------------------------------------------------------- runtimes


def test_stock_runtime_restarts_containers_in_their_pods(
    launch: Launch, results: Path, kube: KubeCluster, tmp_path: Path
) -> None:
    (results / "exit-1").write_text("143")
    said = launch(**STOCK)
    notes = [line for line in said if line.startswith("ClusterTrainingRuntime torch-distributed:")]
    for what in (
        "pods are kept until the run's Workflow or somebody deletes it, as the runtime says, not",
        "lacks rules: exit code 2 does not end the job at once and evicted and preempted pods",
        "the job ends after 6 failures of all pods together",
    ):
        assert any(what in note for note in notes), what
    assert "node-1 starts again; before: exit code 143 (SIGTERM), Error (preemption)" in said
    counts = TRAINJOB.job(kube)["metadata"]["annotations"][ANNOTATION]
    assert counts == '{"node-1": {"preemption": 1}}'
    first = ["rank 1 of 2", "line 1", "line 2", "line 3"]
    lines = [*first, "failing with 143", "-- its container was started again", *first, "done"]
    assert [line for line in said if line.startswith("[node-1]")] == [
        f"[node-1] {line}" for line in lines
    ]
    assert "[node-1] failing with 143\n" in (tmp_path / "log.txt").read_text()


def test_stock_runtime_replaces_an_evicted_pod_until_its_limit(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    """Without a podFailurePolicy an eviction is a failure like any other."""
    stock = copy.deepcopy(STOCK_RUNTIME)
    stock["metadata"]["name"] = "impatient"
    stock["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["backoffLimit"] = 1
    kube.install(stock)
    (results / "hold").touch()

    def evict() -> None:
        pod = until(lambda: running(kube, "node-0-1-"))
        kube.kubelet.evict(pod["metadata"]["name"], "The node was low on resource: memory.")
        again = until(lambda: other(running(kube, "node-0-1-"), pod))
        kube.kubelet.evict(again["metadata"]["name"], "The node was low on resource: disk.")

    meanwhile(evict)
    said: list[str] = []
    with pytest.raises(JobError, match="jobset failed due to one or more job failures") as failure:
        launch(said=said, **STOCK | {"runtime": "impatient"})
    assert len([line for line in said if "starts again" in line]) == 1
    assert "(node-1): exit code 137 (SIGKILL), Evicted: The node was low on resource: disk" in str(
        failure.value
    )


def other(pod: Object | None, than: Object) -> Object | None:
    """The pod, if it is another one."""
    return pod if pod and pod["metadata"]["uid"] != than["metadata"]["uid"] else None


def test_stock_runtime_would_try_a_users_error_again(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    (results / "exit-1").write_text("2")
    (results / "hold").touch()
    with pytest.raises(JobError, match="failed; starting again would not help") as failure:
        launch(**STOCK)
    assert "(node-1): exit code 2, Error; its last lines:" in str(failure.value)
    assert failure.value.exit_code == 2
    assert (TRAINJOB.jobs(kube), kube.pods()) == ([], {})


def test_a_users_error_ends_a_job_that_nobody_watches(
    launch: Launch, results: Path, kube: KubeCluster, our_runtime: Object
) -> None:
    """By the runtime's podFailurePolicy: the pods stay to be looked at."""
    (results / "exit-1").write_text("2")
    with pytest.raises(JobError) as failure:
        launch()
    assert failure.value.ended_by_itself
    assert "jobset failed due to one or more job failures" in str(failure.value)
    assert len(kube.store.created_of("pods")) == 2, "no pod was started again"


def test_disruptions_do_not_count_against_the_runtimes_limit(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile, our_runtime: Object
) -> None:
    """An eviction is ignored; the next failure, which is none, is one too many."""
    template = our_runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
    template["spec"]["backoffLimitPerIndex"] = 0
    kube.install(our_runtime)
    (results / "hold").touch()

    def disturb() -> None:
        pod = until(lambda: running(kube, "node-0-1-"))
        kube.kubelet.evict(pod["metadata"]["name"], "The node was low on resource: memory.")
        again = until(lambda: other(running(kube, "node-0-1-"), pod))
        kube.kubelet.terminate(again["metadata"]["name"])

    meanwhile(disturb)
    said: list[str] = []
    with pytest.raises(JobError) as failure:
        launch(said=said)
    assert len([line for line in said if "starts again" in line]) == 1
    assert any("ends after 0 failures of each pod" in line for line in said)
    assert "(node-1): exit code 143 (SIGTERM), Error" in str(failure.value)


def edit_pod(**changes: Any) -> Callable[[Object], None]:
    def edit(runtime: Object) -> None:
        job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
        job["spec"]["template"]["spec"].update(changes)

    return edit


def without_torch(runtime: Object) -> None:
    del runtime["spec"]["mlPolicy"]["torch"]


def without_jobs(runtime: Object) -> None:
    runtime["spec"]["template"]["spec"]["replicatedJobs"] = []


@pytest.mark.parametrize(
    ("edit", "profile_says", "refused"),
    [
        (edit_pod(), {"priority_class": "high"}, "high in the profile and not set in the runtime"),
        (
            edit_pod(priorityClassName="low"),
            {"priority_class": "high"},
            "priority_class is high in the profile and low in the runtime",
        ),
        (
            edit_pod(),
            {"image_pull_policy": "Always"},
            "image_pull_policy is Always in the profile and IfNotPresent in the runtime",
        ),
        (without_torch, {}, "is no runtime for PyTorch: it needs mlPolicy.torch"),
        (without_jobs, {}, "and a replicated job 'node' with the label"),
        (edit_pod(), {"runtime": "other"}, "there is no TrainingRuntime other; kubectl apply"),
    ],
)
def test_what_would_not_hold_is_refused_before_anything_changes(
    edit: Callable[[Object], None],
    profile_says: dict[str, Any],
    refused: str,
    launch: Launch,
    results: Path,
    kube: KubeCluster,
    our_runtime: Object,
) -> None:
    edit(our_runtime)
    kube.install(our_runtime)
    prepared: list[str] = []
    with pytest.raises(UserError) as error:
        launch(before_creation=lambda: prepared.append("removed results"), **profile_says)
    assert refused in str(error.value)
    assert (prepared, TRAINJOB.ever(kube)) == ([], 0)


def test_what_the_runtime_says_as_the_profile_does_is_fine(
    launch: Launch, results: Path, kube: KubeCluster, our_runtime: Object
) -> None:
    edit_pod(priorityClassName="high")(our_runtime)
    kube.install(our_runtime)
    said = launch(priority_class="high")
    assert not [line for line in said if line.startswith("TrainingRuntime")]
    (pod, *_) = kube.pods().values()
    assert pod["spec"]["priorityClassName"] == "high"


@pytest.mark.parametrize("trainer_version", ["2.2.0"])
def test_a_shorter_grace_period_is_reported(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    said = launch(termination_grace_seconds=300)
    assert any("pods have 60 s between SIGTERM and SIGKILL" in line for line in said)


def test_a_runtime_that_is_not_ours_to_read(
    launch: Launch, results: Path, kube: KubeCluster
) -> None:
    def reads(call: Call) -> bool:
        return call.resource == "trainingruntimes"

    kube.fault(Fault(403, reads, times=9))
    assert "TrainingRuntime sdpose is not ours to read" in launch()[0]


@every_trainer
def test_a_failed_job_does_not_run_again_after_its_ttl(
    launch: Launch, results: Path, kube: KubeCluster, our_runtime: Object
) -> None:
    """kubeflow/trainer#3737: up to 2.3.0 the JobSet of a failed TrainJob is made again."""
    our_runtime["spec"]["template"]["spec"]["ttlSecondsAfterFinished"] = 1
    kube.install(our_runtime)
    (results / "exit-1").write_text("2")
    with pytest.raises(JobError):
        launch()
    first = kube.store.created_of("pods")
    until(lambda: not kube.pods())  # the TTL
    rounds = kube.trainer.rounds
    until(lambda: kube.trainer.rounds > rounds + 5)
    assert kube.store.created_of("pods") == first
    said = launch()
    assert "had failed" in "".join(said)
    assert "[node-0] done" in said


def test_only_the_job_that_failed_is_held(
    launch: Launch, results: Path, kube: KubeCluster, meanwhile: Meanwhile
) -> None:
    """Whoever deletes a job may have put another one in its place."""
    (results / "hold").touch()

    def replace() -> None:
        until(lambda: running(kube, "node-0-0-"))
        ((key, job),) = kube.store.list(TRAINJOB.group, TRAINJOB.plural)
        with kube.store.changed:
            kube.store.delete(key)
            job.pop("status", None)
            kube.store.create(TRAINJOB.group, TRAINJOB.plural, job)

    meanwhile(replace)
    with pytest.raises(JobError, match="was deleted by somebody else"):
        launch()
    job = TRAINJOB.job(kube)
    assert not job["spec"].get("suspend")
    assert FAILED_ANNOTATION not in job["metadata"]["annotations"]


def test_elastic_is_refused(experiment: Experiment, profile: Cluster) -> None:
    cluster = parse_cluster(
        profile.model_dump_json(), elastic={"max_replicas": 2}, train_api="trainjob"
    )
    with pytest.raises(UserError, match="trainjob cannot be elastic"):
        build_job("job", experiment, cluster)
