"""The two kinds of training job: what differs between them, and which one a run gets."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal

from components.kube.api import Api, Object, Resource
from components.profile import Cluster
from sdpose.errors import UserError

logger = logging.getLogger(__name__)

TRAINER_GROUP, TRAINER_VERSION = "trainer.kubeflow.org", "v1alpha1"
TRAINER_JOB = TRAINER_CONTAINER = "node"  # in every runtime for PyTorch
# `train_api: auto`, where no cluster can be asked.
ASSUMED = "trainjob"
CONFIRM_S = 3.0

# On a job that has failed and may be forgotten by its operator, see `keep_failed`.
FAILED_ANNOTATION = "sdpose/failed"

Phase = Literal["waiting", "suspended", "active", "succeeded", "failed"]


@dataclass(frozen=True)
class Kind:
    name: str
    train_api: Literal["pytorchjob", "trainjob"]  # in the profile
    resource: Resource
    pod_label: str  # whose value is the job's name
    replica_labels: tuple[str, str]  # of a pod: role and index
    container: str
    succeeded: str  # the condition
    operator: str  # for people
    # What stands between the job and its pods: kinds, and what their names add to the job's.
    between: tuple[tuple[str, str], ...] = ()
    may_run_again: bool = False  # after it has failed, by its operator's own doing

    def phase(self, job: Object) -> Phase:
        """By the conditions that are true; the order in which they came says nothing."""
        true = {c["type"] for c in _conditions(job) if c["status"] == "True"}
        if self.succeeded in true:
            return "succeeded"
        if "Failed" in true or FAILED_ANNOTATION in job["metadata"].get("annotations", {}):
            return "failed"
        if "Suspended" in true or _is_suspended(job):
            return "suspended"
        # A TrainJob that runs has no condition, but the counts of its jobs.
        return (
            "active" if _conditions(job) or job.get("status", {}).get("jobsStatus") else "waiting"
        )

    def message(self, job: Object) -> str:
        """The operator's message about the end."""
        ended = [c for c in _conditions(job) if c["type"] == "Failed" and c["status"] == "True"]
        return str(ended[0].get("message", "")) if ended else ""

    def replica(self, pod: Object) -> str:
        """`master-0`, `worker-1`: the same for the pod that takes another's place."""
        labels = pod["metadata"].get("labels", {})
        role, index = (labels.get(label, "?") for label in self.replica_labels)
        return f"{role}-{index}"

    def rank(self, pod: Object) -> tuple[bool, int]:
        """Sorts pods by the ranks of their processes: the master first."""
        role, _, index = self.replica(pod).rpartition("-")
        return role == "worker", int(index) if index.isdecimal() else 0


PYTORCHJOB = Kind(
    name="PyTorchJob",
    train_api="pytorchjob",
    resource=Resource("kubeflow.org", "v1", "pytorchjobs"),
    pod_label="training.kubeflow.org/job-name",
    replica_labels=("training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"),
    container="pytorch",
    succeeded="Succeeded",
    operator="the Training Operator",
)
TRAINJOB = Kind(
    name="TrainJob",
    train_api="trainjob",
    resource=Resource(TRAINER_GROUP, TRAINER_VERSION, "trainjobs"),
    pod_label="jobset.sigs.k8s.io/jobset-name",
    replica_labels=(
        "jobset.sigs.k8s.io/replicatedjob-name",
        "batch.kubernetes.io/job-completion-index",
    ),
    container=TRAINER_CONTAINER,
    succeeded="Complete",
    operator="Kubeflow Trainer",
    between=(("JobSet", ""), ("Job", f"-{TRAINER_JOB}-0")),
    may_run_again=True,
)


def kinds_of(cluster: Cluster) -> tuple[Kind, ...]:
    """The kinds that the profile allows, the one that is preferred first."""
    kinds = {"pytorchjob": (PYTORCHJOB,), "trainjob": (TRAINJOB,), "auto": (TRAINJOB, PYTORCHJOB)}
    return kinds[cluster.train_api]


def kind_of(cluster: Cluster) -> Kind:
    """Of a profile whose train_api is decided."""
    (kind,) = kinds_of(cluster)
    return kind


def is_served(api: Api, resource: Resource) -> bool:
    """Whether the cluster has this kind, in this version.

    A server that has just started answers 404 until it knows its CustomResourceDefinitions: a no
    is asked for twice.
    """
    for pause in (0.0, CONFIRM_S):
        time.sleep(pause)
        found, _ = api.look(f"/apis/{resource.group}/{resource.version}", public=True)
        if any(each["name"] == resource.plural for each in (found or {}).get("resources", [])):
            return True
    return False


def choose_kind(api: Api, cluster: Cluster, name: str) -> Cluster:
    """The profile with `train_api: auto` decided.

    name: of the run's job. One that exists decides, whatever the cluster has by now: a run whose
    choice changed between two launchers would have two jobs.
    Raises UserError if the cluster has none of the kinds.
    """
    if cluster.train_api != "auto":
        return cluster
    served = [kind for kind in kinds_of(cluster) if is_served(api, kind.resource)]
    if not served:
        raise UserError(no_kind_message(cluster))
    existing = next((kind for kind in served if api.get(kind.resource, name)), None)
    kind = existing or served[0]
    reason = "this run has one" if existing else f"this cluster has {kind.operator}"
    logger.info(f"train_api auto: {kind.name}, because {reason}")
    return cluster.model_copy(update={"train_api": kind.train_api})


def no_kind_message(cluster: Cluster) -> str:
    """That the cluster has no kind that the profile allows, and what to do."""
    resources = [kind.resource for kind in kinds_of(cluster)]
    kinds = " and no ".join(f"{each.plural}.{each.group}/{each.version}" for each in resources)
    operators = " or ".join(kind.operator for kind in kinds_of(cluster))
    return f"this cluster knows no {kinds}: install {operators}"


def assume_kind(cluster: Cluster) -> tuple[Cluster, list[str]]:
    """The profile with `auto` decided without a cluster, and what people must know of the job that
    is built from it."""
    notes = []
    if cluster.train_api == "auto":
        cluster = cluster.model_copy(update={"train_api": ASSUMED})
        notes.append(
            "train_api auto: assumed is a TrainJob; a cluster without Kubeflow Trainer gets a "
            "PyTorchJob (--train-api pytorchjob shows it)"
        )
    if cluster.train_api == "trainjob":
        notes.append(
            f"from {cluster.runtime_kind} {cluster.runtime}, not from the profile: priority_class, "
            "image_pull_policy, ttl_seconds_after_finished, and with Trainer 2.2 "
            "termination_grace_seconds"
        )
    return cluster, notes


def _conditions(job: Object) -> list[Object]:
    return list(job.get("status", {}).get("conditions") or [])


def _is_suspended(job: Object) -> bool:
    spec = job["spec"]
    return bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))
