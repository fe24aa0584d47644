"""JobSet's controller: a Job for each replicated job, and their outcomes together.

pkg/controllers/jobset_controller.go and pkg/webhooks/jobset_webhook.go of kubernetes-sigs/jobset
(without failure policies and restarts, which no runtime here has).
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

from tests.cluster.kube import conditions
from tests.cluster.kube.batch import GROUP as BATCH
from tests.cluster.kube.batch import PLURAL as JOBS
from tests.cluster.kube.store import Key, Object, StatusError, controller_reference

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

GROUP, PLURAL = "jobset.x-k8s.io", "jobsets"
PREFIX = "jobset.sigs.k8s.io"


class JobSets:
    def __init__(self, cluster: KubeCluster) -> None:
        self._store = cluster.store

    def reconcile(self) -> None:
        for key, jobset in self._store.list(GROUP, PLURAL):
            if not jobset["metadata"].get("deletionTimestamp"):
                self._reconcile(key, jobset)

    def _reconcile(self, key: Key, jobset: Object) -> None:
        owned = {
            job["metadata"]["name"]: (place, job)
            for place, job in self._store.list(BATCH, JOBS, key[2])
            if job["metadata"]["ownerReferences"][0]["uid"] == jobset["metadata"]["uid"]
        }
        self._count(jobset, [job for _, job in owned.values()])
        ended = conditions.find(jobset, "Completed") or conditions.find(jobset, "Failed")
        failed = [name for name, (_, job) in owned.items() if conditions.is_true(job, "Failed")]
        if ended:
            for place, job in owned.values():
                if not conditions.is_true(job, "Complete", "Failed"):
                    self._store.discard(place)
            ttl = jobset["spec"].get("ttlSecondsAfterFinished")
            if ttl is not None and conditions.age(ended["lastTransitionTime"]) >= ttl:
                self._store.discard(key, policy="Foreground")
                return
        elif failed:
            text = "jobset failed due to one or more job failures"
            conditions.put(
                jobset, "Failed", "FailedJobs", f"{text} (first failed job: {failed[0]})"
            )
        elif owned and all(conditions.is_true(job, "Complete") for _, job in owned.values()):
            conditions.put(jobset, "Completed", "AllJobsCompleted", "jobset completed successfully")
        else:
            self._run(jobset, owned)

        def change(item: Object) -> None:
            item["status"] = jobset["status"]

        self._store.update(key, change)

    def _run(self, jobset: Object, owned: dict[str, tuple[Key, Object]]) -> None:
        """Jobs are there, and suspended as the JobSet is."""
        suspend = bool(jobset["spec"].get("suspend"))
        for replicated in jobset["spec"]["replicatedJobs"]:
            wanted = make_job(jobset, replicated)
            name = wanted["metadata"]["name"]
            if name not in owned:
                with contextlib.suppress(StatusError):  # that of an earlier JobSet is going
                    self._store.create(BATCH, JOBS, wanted)
                continue
            place, job = owned[name]
            if job["spec"]["suspend"] != suspend:

                def change(item: Object, spec: Object = wanted["spec"]) -> None:
                    item["spec"] = spec

                self._store.update(place, change)
        if suspend:
            conditions.put(jobset, "Suspended", "SuspendedJobs", "jobset is suspended")
        elif conditions.find(jobset, "Suspended"):
            conditions.put(jobset, "Suspended", "ResumeJobs", "jobset is resumed", "False")

    def _count(self, jobset: Object, owned: list[Object]) -> None:
        counts = []
        for replicated in jobset["spec"]["replicatedJobs"]:
            count = {"ready": 0, "succeeded": 0, "failed": 0, "active": 0, "suspended": 0}
            for job in owned:
                if job["metadata"]["labels"][f"{PREFIX}/replicatedjob-name"] != replicated["name"]:
                    continue
                status = job.get("status", {})
                count["succeeded"] += conditions.is_true(job, "Complete")
                count["failed"] += conditions.is_true(job, "Failed")
                count["suspended"] += conditions.is_true(job, "Suspended")
                count["active"] += status.get("active", 0) > 0
                count["ready"] += status.get("ready", 0) >= job["spec"]["parallelism"]
            counts.append({"name": replicated["name"]} | count)
        jobset.setdefault("status", {})["replicatedJobsStatus"] = counts


def make_job(jobset: Object, replicated: Object) -> Object:
    """The one Job of a replicated job, with the webhook's defaults."""
    name, kind = jobset["metadata"]["name"], replicated["name"]
    template = copy.deepcopy(replicated["template"])
    labels = {
        f"{PREFIX}/jobset-name": name,
        f"{PREFIX}/replicatedjob-name": kind,
        f"{PREFIX}/job-index": "0",
        f"{PREFIX}/restart-attempt": "0",
    }
    spec = {"completionMode": "Indexed"} | template["spec"]
    spec["suspend"] = bool(jobset["spec"].get("suspend"))
    pod = spec["template"]
    meta = pod.setdefault("metadata", {})
    meta["labels"] = meta.get("labels", {}) | labels
    pod["spec"] = {"restartPolicy": "OnFailure", "subdomain": name} | pod["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{name}-{kind}-0",
            "namespace": jobset["metadata"]["namespace"],
            "labels": template.get("metadata", {}).get("labels", {}) | labels,
            "ownerReferences": [controller_reference(jobset)],
        },
        "spec": spec,
    }
