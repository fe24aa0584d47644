"""Kubeflow Trainer v2 with JobSet and Kubernetes' Job controller: from a TrainJob to its pods.

pkg/controller/trainjob_controller.go, pkg/runtime/core/trainingruntime.go and
pkg/runtime/framework/plugins/{jobset,torch} of kubeflow/trainer
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.cluster.kube import conditions
from tests.cluster.kube.admission import ANCESTOR
from tests.cluster.kube.batch import Jobs
from tests.cluster.kube.controller import Controller
from tests.cluster.kube.jobset import GROUP as JOBSET_GROUP
from tests.cluster.kube.jobset import PLURAL as JOBSETS
from tests.cluster.kube.jobset import JobSets
from tests.cluster.kube.store import Key, Object, StatusError, controller_reference

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

GROUP, PLURAL = "trainer.kubeflow.org", "trainjobs"
# Of these lists a strategic merge keeps what the patch does not name; all others it replaces.
MERGE_KEYS = {
    "replicatedJobs": "name",
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "schedulingGates": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}
INDEX_FIELD = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


class Trainer(Controller):
    def __init__(self, cluster: KubeCluster) -> None:
        self._jobsets, self._jobs = JobSets(cluster), Jobs(cluster)
        super().__init__(cluster)

    def reconcile(self) -> None:
        for key, job in self._store.list(GROUP, PLURAL):
            if not job["metadata"].get("deletionTimestamp"):
                self._reconcile(key, job)
        self._jobsets.reconcile()
        self._jobs.reconcile()

    def _reconcile(self, key: Key, job: Object) -> None:
        failed = conditions.find(job, "Failed")
        # trainer#3737: up to 2.3.0 every look at the job began with forgetting that it had failed.
        forgets = self._cluster.trainer_version in {"2.2.0", "2.3.0"}
        if forgets and failed and failed["reason"] != "DeadlineExceeded":
            conditions.drop(job, "Failed")
        if not conditions.is_true(job, "Complete", "Failed"):
            self._apply_jobset(key, job)
        suspend = bool(job["spec"].get("suspend"))
        if suspend:
            conditions.put(job, "Suspended", "Suspended", "TrainJob is suspended")
        elif conditions.is_true(job, "Suspended"):
            conditions.put(job, "Suspended", "Resumed", "TrainJob is resumed", "False")
        self._take_status(key, job)
        self._mind_deadline(key, job)

        def change(item: Object) -> None:
            if job.get("status"):
                item["status"] = job["status"]

        self._store.update(key, change)

    def _apply_jobset(self, key: Key, job: Object) -> None:
        runtime = self._cluster.runtime_of(job)
        if runtime is None:
            text = "TrainJob resources reconciliation failed: not found specified TrainingRuntime"
            self._cluster.event(job, "TrainJobResourcesCreationFailed", text)
            return
        jobset = make_jobset(job, runtime, self._cluster.master_port)
        place = (JOBSET_GROUP, JOBSETS, key[2], key[3])
        try:
            there = self._store.get(place)
        except StatusError:
            self._store.create(JOBSET_GROUP, JOBSETS, jobset)
            return
        if job["spec"].get("suspend") or there["spec"].get("suspend"):
            self._store.update(place, lambda item: item.update(spec=jobset["spec"]))

    def _take_status(self, key: Key, job: Object) -> None:
        try:
            jobset = self._store.get((JOBSET_GROUP, JOBSETS, key[2], key[3]))
        except StatusError:
            return
        for theirs, ours in (("Completed", "Complete"), ("Failed", "Failed")):
            found = conditions.find(jobset, theirs)
            if found and found["status"] == "True":
                since = found["lastTransitionTime"]
                conditions.put(job, ours, found["reason"], found["message"], since=since)
        if counts := jobset.get("status", {}).get("replicatedJobsStatus"):
            job.setdefault("status", {})["jobsStatus"] = counts

    def _mind_deadline(self, key: Key, job: Object) -> None:
        limit = job["spec"].get("activeDeadlineSeconds")
        if not limit or job["spec"].get("suspend") or conditions.is_true(job, "Complete", "Failed"):
            return
        resumed = conditions.find(job, "Suspended")
        since = resumed["lastTransitionTime"] if resumed else job["metadata"]["creationTimestamp"]
        if conditions.age(since) >= limit:
            message = "TrainJob exceeded its active deadline"
            conditions.put(job, "Failed", "DeadlineExceeded", message)
            self._store.discard((JOBSET_GROUP, JOBSETS, key[2], key[3]))


def make_jobset(job: Object, runtime: Object, port: int) -> Object:
    """The runtime's template with the TrainJob's patches, then what its `trainer` says."""
    meta, trainer = job["metadata"], job["spec"].get("trainer", {})
    template = copy.deepcopy(runtime["spec"]["template"])
    for patch in job["spec"].get("runtimePatches", []):
        change = patch.get("trainingRuntimeSpec", {}).get("template", {})
        template = merge(template, {"spec": change.get("spec", {})})
    spec = template["spec"] | {"suspend": bool(job["spec"].get("suspend"))}
    policy = runtime["spec"].get("mlPolicy") or {}
    nodes = trainer.get("numNodes", policy.get("numNodes", 1))
    for replicated in spec["replicatedJobs"]:
        labels = replicated["template"].get("metadata", {}).get("labels", {})
        if labels.get(ANCESTOR) != "trainer":
            continue
        replicated["replicas"] = 1
        replicated["template"]["spec"] |= {"parallelism": nodes, "completions": nodes}
        pod = replicated["template"]["spec"]["template"]["spec"]
        container = next(c for c in pod["containers"] if c["name"] == "node")
        container |= {key: trainer[key] for key in ("image", "command", "args") if key in trainer}
        resources = container.setdefault("resources", {})
        for key, values in trainer.get("resourcesPerNode", {}).items():
            resources[key] = resources.get(key, {}) | values
        variables = list(trainer.get("env", []))
        if "torch" in policy:
            variables += _torch_variables(meta["name"], nodes, trainer, port)
        container["env"] = merge({"env": container.get("env", [])}, {"env": variables})["env"]
    return {
        "apiVersion": f"{JOBSET_GROUP}/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "ownerReferences": [controller_reference(job)],
        },
        "spec": spec,
    }


def _torch_variables(name: str, nodes: int, trainer: Object, port: int) -> list[Object]:
    return [
        {"name": "PET_NNODES", "value": str(nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(trainer.get("numProcPerNode", "auto"))},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX_FIELD}}},
        {"name": "PET_MASTER_ADDR", "value": f"{name}-node-0-0.{name}"},
        # (The real one is 29500: here all pods are on one machine.)
        {"name": "PET_MASTER_PORT", "value": str(port)},
    ]


def merge(base: Any, patch: Any, field: str = "") -> Any:
    """A strategic merge patch."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {
            key: merge(base[key], value, key) if key in base else value
            for key, value in patch.items()
        }
    if isinstance(base, list) and isinstance(patch, list) and field in MERGE_KEYS:
        key = MERGE_KEYS[field]
        merged = {each[key]: each for each in base}
        for each in patch:
            there = merged.get(each[key])
            merged[each[key]] = each if there is None else merge(there, each)
        return list(merged.values())
    return patch
