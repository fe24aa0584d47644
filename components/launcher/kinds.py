"""What differs between a PyTorchJob and a TrainJob for someone who watches over one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.kube.api import Object, Resource
from components.launcher import trainjob
from components.profile import Cluster

# On a job that has failed and may be forgotten by its operator, see `hold`.
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
        """What the operator says of the end."""
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
    resource=Resource(trainjob.GROUP, trainjob.VERSION, "trainjobs"),
    pod_label="jobset.sigs.k8s.io/jobset-name",
    replica_labels=(
        "jobset.sigs.k8s.io/replicatedjob-name",
        "batch.kubernetes.io/job-completion-index",
    ),
    container=trainjob.CONTAINER,
    succeeded="Complete",
    operator="Kubeflow Trainer",
    between=(("JobSet", ""), ("Job", f"-{trainjob.JOB}-0")),
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


def _conditions(job: Object) -> list[Object]:
    return list(job.get("status", {}).get("conditions") or [])


def _is_suspended(job: Object) -> bool:
    spec = job["spec"]
    return bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))
