"""Kubernetes' own Job controller, for Indexed Jobs.

pkg/controller/job/{job_controller,pod_failure_policy,backoff_utils}.go of kubernetes/kubernetes.
(It makes pods again at once; the real one waits for 10 s, twice as long after each failure.)
"""

from __future__ import annotations

import copy
import secrets
from typing import TYPE_CHECKING

from tests.cluster.kube import conditions
from tests.cluster.kube.store import TRACKING, Key, Object, controller_reference

if TYPE_CHECKING:
    from tests.cluster.kube.cluster import KubeCluster

GROUP, PLURAL = "batch", "jobs"
INDEX = "batch.kubernetes.io/job-completion-index"
DEFAULT_BACKOFF_LIMIT = 6
ENDED = {"Succeeded", "Failed"}


class Jobs:
    def __init__(self, cluster: KubeCluster) -> None:
        self._cluster, self._store = cluster, cluster.store

    def reconcile(self) -> None:
        jobs = dict(self._store.list(GROUP, PLURAL))
        pods: dict[str, list[Object]] = {job["metadata"]["uid"]: [] for job in jobs.values()}
        for _, pod in self._store.list("", "pods"):
            owner = pod["metadata"].get("ownerReferences", [{}])[0]
            if owner.get("kind") != "Job":
                continue
            if owner["uid"] in pods:
                pods[owner["uid"]].append(pod)
            else:
                self._release(pod)
        for key, job in jobs.items():
            own = pods[job["metadata"]["uid"]]
            if job["metadata"].get("deletionTimestamp"):
                for pod in own:
                    self._release(pod)
            else:
                self._reconcile(key, job, own)

    def _reconcile(self, key: Key, job: Object, pods: list[Object]) -> None:
        status = job.setdefault("status", {})
        counts = status.setdefault("failures", {})  # by index; the real one keeps it on the pods
        done = set(filter(None, status.get("completedIndexes", "").split(",")))
        # A pod keeps its finalizer until its end is counted, however it is deleted.
        for pod in [pod for pod in pods if TRACKING in pod["metadata"].get("finalizers", [])]:
            phase, index = pod["status"].get("phase"), pod["metadata"]["labels"][INDEX]
            if phase == "Succeeded":
                done.add(index)
            elif phase == "Failed":
                action, why = _action(job, pod)
                if action == "FailJob":
                    conditions.put(job, "FailureTarget", "PodFailurePolicy", why)
                elif action == "Count":
                    counts[index] = counts.get(index, 0) + 1
            elif not _is_unscheduled_and_deleted(pod):
                continue
            self._release(pod)
        living = [pod for pod in pods if pod["status"].get("phase") not in ENDED]
        active = [pod for pod in living if not pod["metadata"].get("deletionTimestamp")]
        status |= {
            "active": len(active),
            "ready": sum(pod["status"].get("phase") == "Running" for pod in active),
            "succeeded": len(done),
            "completedIndexes": ",".join(sorted(done)),
        }
        self._conclude(job, counts, living, active)
        if not conditions.is_true(job, "Complete", "Failed", "FailureTarget", "Suspended"):
            # podReplacementPolicy: with a podFailurePolicy it is Failed, else TerminatingOrFailed.
            waits = "podFailurePolicy" in job["spec"]
            self._create_pods(job, done, living if waits else active)

        def change(item: Object) -> None:
            item["status"] = status

        self._store.update(key, change)

    def _conclude(
        self, job: Object, counts: dict[str, int], living: list[Object], active: list[Object]
    ) -> None:
        if conditions.is_true(job, "Complete", "Failed"):
            return
        why = _limit_reached(job["spec"], counts, living)
        if why and not conditions.find(job, "FailureTarget"):
            conditions.put(job, "FailureTarget", *why)
        suspend = bool(job["spec"].get("suspend"))
        if target := conditions.find(job, "FailureTarget"):
            self._delete(active)
            if not living:
                conditions.put(job, "Failed", target["reason"], target["message"])
        elif job["status"]["succeeded"] == job["spec"]["completions"]:
            self._delete(active)
            conditions.put(job, "Complete", "CompletionsReached", "")
        elif suspend:
            self._delete(active)
            conditions.put(job, "Suspended", "JobSuspended", "Job suspended")
        elif conditions.is_true(job, "Suspended"):
            conditions.put(job, "Suspended", "JobResumed", "Job resumed", "False")

    def _create_pods(self, job: Object, done: set[str], there: list[Object]) -> None:
        taken = done | {pod["metadata"]["labels"][INDEX] for pod in there}
        for index in map(str, range(job["spec"]["completions"])):
            if index not in taken:
                self._create_pod(job, index)

    def _create_pod(self, job: Object, index: str) -> None:
        name = job["metadata"]["name"]
        template = copy.deepcopy(job["spec"]["template"])
        meta = template["metadata"]
        meta["labels"] |= {"batch.kubernetes.io/job-name": name, INDEX: index}
        meta["annotations"] = meta.get("annotations", {}) | {INDEX: index}
        meta["finalizers"] = [TRACKING]
        template["spec"]["hostname"] = f"{name}-{index}"
        self._cluster.create_pod(
            f"{name}-{index}-{secrets.token_hex(3)[:5]}",
            template,
            job,
            controller_reference(job),
            reason="FailedCreate",
        )

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            self._store.discard(("", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _release(self, pod: Object) -> None:
        """Lets go of a pod, which is gone then if it was deleted before it ran."""
        key = ("", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

        def change(item: Object) -> None:
            item["metadata"].pop("finalizers", None)

        if TRACKING in pod["metadata"].get("finalizers", []):
            # In one step: a pod that is deleted in between would never go.
            with self._store.changed:
                now = self._store.update(key, change)
                if now is not None and _is_unscheduled_and_deleted(now):
                    self._store.remove(key)


def _action(job: Object, pod: Object) -> tuple[str, str]:
    """What the podFailurePolicy does with a failed pod: the first rule that matches; and why."""
    rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate(rules):
        if why := _matches(rule, pod, name):
            return rule["action"], f"{why} matching {rule['action']} rule at index {number}"
    return "Count", ""


def _matches(rule: Object, pod: Object, name: str) -> str:
    if codes := rule.get("onExitCodes"):
        for status in pod["status"].get("containerStatuses", []):
            code = status.get("state", {}).get("terminated", {}).get("exitCode", 0)
            if codes.get("containerName") in {None, status["name"]} and code:
                listed = code in codes["values"]
                if listed == (codes["operator"] == "In"):
                    return f"Container {status['name']} for pod {name} failed with exit code {code}"
    for wanted in rule.get("onPodConditions", []):
        found = conditions.find(pod, wanted["type"])
        if found and found["status"] == wanted.get("status", "True"):
            return f"Pod {name} has condition {wanted['type']}"
    return ""


def _limit_reached(
    spec: Object, counts: dict[str, int], living: list[Object]
) -> tuple[str, str] | None:
    if (limit := spec.get("backoffLimitPerIndex")) is not None:
        failed = [index for index, count in counts.items() if count > limit]
        if len(failed) > spec.get("maxFailedIndexes", spec["completions"]):
            message = "Job has exceeded the specified maximal number of failed indexes"
            return "MaxFailedIndexesExceeded", message
        return None
    failures = sum(counts.values())
    if spec["template"]["spec"]["restartPolicy"] == "OnFailure":
        failures += sum(
            status["restartCount"]
            for pod in living
            for status in pod["status"].get("containerStatuses", [])
        )
    if failures > spec.get("backoffLimit", DEFAULT_BACKOFF_LIMIT):
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    return None


def _is_unscheduled_and_deleted(pod: Object) -> bool:
    return "nodeName" not in pod["spec"] and "deletionTimestamp" in pod["metadata"]
