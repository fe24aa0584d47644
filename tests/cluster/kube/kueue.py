"""Kueue, as far as a client can tell: for each job that names a queue, if Kueue manages its kind, a
Workload; the job is suspended until there is quota, and again when the queue is drained.

pkg/controller/jobframework/{reconciler,base_webhook}.go of kubernetes-sigs/kueue
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.kube import conditions
from tests.cluster.kube.controller import Controller
from tests.cluster.kube.store import Key, Object, StatusError

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

GROUP, VERSION, PLURAL = "kueue.x-k8s.io", "v1beta2", "workloads"
QUEUE_LABEL, JOB_UID_LABEL = f"{GROUP}/queue-name", f"{GROUP}/job-uid"
KINDS = (("kubeflow.org", "pytorchjobs"), ("trainer.kubeflow.org", "trainjobs"))
RESOURCES: Object = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [{"name": PLURAL, "kind": "Workload", "namespaced": True}],
}


class Kueue(Controller):
    def __init__(self, cluster: KubeCluster, frameworks: tuple[str, ...]) -> None:
        """frameworks: the plurals of integrations.frameworks. Since 0.19: ("trainjobs",)."""
        self.frameworks = frameworks
        self.refusal = ""  # why there is no quota; "": there is
        super().__init__(cluster)

    def set_quota(self, refusal: str) -> None:
        """Takes the quota away with a reason, from jobs that run, too; "" gives it back."""
        self.refusal = refusal
        with self._store.changed:
            self._store.changed.notify_all()

    def admit_webhook(self, plural: str, job: Object) -> None:
        """Suspends a new job."""
        if self._manages(plural, job):
            _policy(job)["suspend"] = True

    def reconcile(self) -> None:
        for group, plural in KINDS:
            for key, job in self._store.list(group, plural):
                ended = conditions.is_true(job, "Succeeded", "Complete", "Failed")
                if self._manages(plural, job) and not ended:
                    self._reconcile(key, job)

    def _reconcile(self, key: Key, job: Object) -> None:
        place = (GROUP, PLURAL, key[2], f"{key[1].removesuffix('s')}-{key[3]}"[:63])
        try:
            workload = self._store.get(place)
        except StatusError:
            self._store.create(GROUP, PLURAL, _workload(place, job))
            return
        status, message = ("False", self.refusal) if self.refusal else ("True", "admitted")
        conditions.put(workload, "QuotaReserved", "Pending", message, status)
        self._store.update(place, lambda item: item.update(status=workload["status"]))
        self._store.update(key, lambda item: _policy(item).update(suspend=bool(self.refusal)))

    def _manages(self, plural: str, job: Object) -> bool:
        labels = job["metadata"].get("labels", {})
        return plural in self.frameworks and QUEUE_LABEL in labels


def _policy(job: Object) -> Object:
    spec: Object = job["spec"]
    return spec.setdefault("runPolicy", {}) if job["kind"] == "PyTorchJob" else spec


def _workload(place: Key, job: Object) -> Object:
    meta = job["metadata"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": meta["name"]}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Workload",
        "metadata": {
            "namespace": place[2],
            "name": place[3],
            "labels": {JOB_UID_LABEL: meta["uid"]},
            "ownerReferences": [owner | {"uid": meta["uid"], "controller": True}],
        },
        "spec": {"queueName": meta["labels"][QUEUE_LABEL]},
    }
