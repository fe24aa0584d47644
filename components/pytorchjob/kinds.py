"""What differs between a PyTorchJob and a TrainJob for someone who watches over one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.cluster import Cluster
from components.pytorchjob.api import Object, Resource

Phase = Literal["waiting", "suspended", "active", "succeeded", "failed"]


@dataclass(frozen=True)
class Kind:
    name: str
    resource: Resource
    pod_label: str  # whose value is the job's name
    replica_labels: tuple[str, str]  # of a pod: role and index
    container: str
    succeeded: str  # the condition
    operator: str  # for people

    def phase(self, job: Object) -> Phase:
        """By the conditions that are true; the order in which they came says nothing."""
        true = {c["type"] for c in _conditions(job) if c["status"] == "True"}
        if self.succeeded in true:
            return "succeeded"
        if "Failed" in true:
            return "failed"
        if "Suspended" in true or _is_suspended(job):
            return "suspended"
        return "active" if _conditions(job) else "waiting"

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
        return role == "worker", int(index) if index.isdigit() else 0


PYTORCHJOB = Kind(
    name="PyTorchJob",
    resource=Resource("kubeflow.org", "v1", "pytorchjobs"),
    pod_label="training.kubeflow.org/job-name",
    replica_labels=("training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"),
    container="pytorch",
    succeeded="Succeeded",
    operator="the Training Operator",
)
TRAINJOB = Kind(
    name="TrainJob",
    resource=Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
    pod_label="jobset.sigs.k8s.io/jobset-name",
    replica_labels=(
        "jobset.sigs.k8s.io/replicatedjob-name",
        "batch.kubernetes.io/job-completion-index",
    ),
    container="node",
    succeeded="Complete",
    operator="Kubeflow Trainer",
)


def kind_of(cluster: Cluster) -> Kind:
    return {"pytorchjob": PYTORCHJOB, "trainjob": TRAINJOB}[cluster.train_api]


def _conditions(job: Object) -> list[Object]:
    return list(job.get("status", {}).get("conditions") or [])


def _is_suspended(job: Object) -> bool:
    spec = job["spec"]
    return bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))
