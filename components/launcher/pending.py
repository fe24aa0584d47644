"""Explains why a job does not start (again): the scheduler's, kubelet's or operator's reason, or a
lost node."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

from components.kube.api import EVENTS, Api, Object
from components.launcher.kinds import Kind
from components.launcher.termination import has_started, pod_end

# What the kubelet waits for in a healthy start.
PASSING = {"ContainerCreating", "PodInitializing"}
# Events of a pod that say why it is still in one of these.
MOUNT_EVENTS = {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}
SECONDS = len("2026-01-01T00:00:00")  # of a timestamp; some have fractions
INIT_IMAGE_HINT = (
    "it is the operator's init container, alpine:3.10 by default; in a cluster without that image "
    "set --pytorch-init-container-image of the Training Operator, with the template of "
    'docs/cluster.md, "The Training Operator"'
)
INIT_RUNS_HINT = (
    "it waits for the master's name; if the master runs, the image's nslookup does not work with "
    'the operator\'s own template: docs/cluster.md, "The Training Operator", has one that does'
)
RESTRICTED_HINT = (
    "the operator's init container lacks a security context: docs/cluster.md, \"The Training "
    'Operator", gives it one'
)
# After its grace period a pod is gone within seconds, unless something holds it.
OVERDUE_S = 60.0


def is_waiting(pod: Object, container: str) -> bool:
    """Whether a pod has been created, but its containers have not all started, or never will; or
    it should be gone and is not, so that no other can take its place."""
    if _is_held(pod):
        return True
    status = pod.get("status", {})
    if status.get("phase", "Pending") == "Pending":
        return True
    if status.get("phase") == "Failed" and not has_started(pod, container):
        return True
    return status.get("phase") == "Running" and any(
        "waiting" in s.get("state", {}) for s in status.get("containerStatuses") or []
    )


def silent_since(pod: Object) -> str | None:
    """When the node of a running pod stopped reporting; None if it did not.

    The pod alone says so, which needs no right to look at nodes: the control plane marks it as not
    ready, and what the kubelet said of its containers before, ready and all, stays as it is.
    """
    status = pod.get("status", {})
    containers = status.get("containerStatuses") or []
    for condition in status.get("conditions") or []:
        if condition["type"] == "Ready" and condition["status"] == "False":
            by_kubelet = condition.get("reason")  # ContainersNotReady, ReadinessGatesNotReady, ...
            if not by_kubelet and containers and all(each.get("ready") for each in containers):
                return str(condition.get("lastTransitionTime"))
    return None


def explain_pods(api: Api, kind: Kind, pods: Iterable[Object]) -> list[str]:
    """A line for each pod that waits; those that wait for the same thing share one."""
    reasons: dict[str, list[str]] = {}
    for pod in pods:
        if is_waiting(pod, kind.container) or silent_since(pod):
            reasons.setdefault(_reason(api, kind, pod), []).append(kind.replica(pod))
    return [f"{', '.join(replicas)}: {reason}" for reason, replicas in sorted(reasons.items())]


def explain_missing_pods(api: Api, kind: Kind, job: Object) -> str:
    """Why the job has no pods yet."""
    for event in _creation_events(api, kind, job):
        # FailedCreate, FailedCreatePod, TrainJobResourcesCreationFailed, JobCreationFailed
        if event.get("type") == "Warning" and "Creat" in event.get("reason", ""):
            message = event.get("message", "").strip()
            restricted = "violates PodSecurity" in message and not kind.between
            hint = f" ({RESTRICTED_HINT})" if restricted else ""
            return f"{kind.operator} cannot create its pods: {message}{hint}"
    if kind.phase(job) == "waiting":
        return f"{kind.operator} has not taken notice of it: does it run in this cluster?"
    return f"{kind.operator} has created no pods yet"


def _is_held(pod: Object) -> bool:
    """Whether a pod was asked to end, and stays."""
    if not (due := pod["metadata"].get("deletionTimestamp")):
        return False
    overdue_s = time.time() - datetime.fromisoformat(due).timestamp()
    return silent_since(pod) is not None or overdue_s > OVERDUE_S


def _lost(pod: Object) -> str | None:
    """What becomes of a pod whose node is lost, or that stays after its end."""
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName")
    since = silent_since(pod)
    if not _is_held(pod):
        return since and (
            f"node {node} has not reported since {since}; unless it comes back, Kubernetes asks "
            "the pod to end when its toleration of node.kubernetes.io/unreachable does (5 minutes, "
            "if the profile's `tolerations` do not say another)"
        )
    if since:
        return (
            f"node {node} has not reported since {since}, and its pod {name} keeps its place until "
            "the node is back. If the machine is off and stays off, an administrator gives the "
            f"place free: kubectl delete node {node}, or kubectl taint node {node} "
            "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        )
    finalizers = ", ".join(pod["metadata"].get("finalizers", []))
    why = f"finalizers {finalizers}" if finalizers else f"kubectl describe pod {name}"
    return (
        f"pod {name} on node {node} should have been gone by "
        f"{pod['metadata']['deletionTimestamp']}, and keeps its place until it is ({why})"
    )


def _reason(api: Api, kind: Kind, pod: Object) -> str:
    if lost := _lost(pod):
        return lost
    status = pod.get("status", {})
    if end := pod_end(pod, kind.container):
        return f"it ended before it began: {end}"
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    init = [("init", s) for s in status.get("initContainerStatuses") or []]
    main = [("main", s) for s in status.get("containerStatuses") or []]
    for place, container in [*init, *main]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in PASSING:
            text = f"{waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")
            hint = f" ({INIT_IMAGE_HINT})" if container["name"] == "init-pytorch" else ""
            return f"{text} (image {container.get('image')}){hint}"
        if place == "init" and "running" in container.get("state", {}):
            hint = f" ({INIT_RUNS_HINT})" if container["name"] == "init-pytorch" else ""
            return f"its init container {container['name']} runs{hint}"
    for event in _events(api, pod["metadata"]["uid"]):
        if event.get("reason") in MOUNT_EVENTS:
            return f"{event['reason']}: {event.get('message', '').strip()}"
    return "it has a node and is being started" if main or init else "it waits for the scheduler"


def _creation_events(api: Api, kind: Kind, job: Object) -> list[Object]:
    """Events about the job and what stands between it and its pods, nearest to the pods first."""
    meta = job["metadata"]
    found: list[Object] = []
    for between, suffix in reversed(kind.between):
        # By name: to learn its uid we would need the right to read it. An earlier job of the run
        # had the same name.
        query = f"involvedObject.kind={between},involvedObject.name={meta['name']}{suffix}"
        since = str(meta["creationTimestamp"])[:SECONDS]
        found += [e for e in _select(api, query) if _time(e)[:SECONDS] >= since]
    return found + _events(api, meta["uid"])


def _events(api: Api, uid: str) -> list[Object]:
    """Events about an object, newest first."""
    return _select(api, f"involvedObject.uid={uid}")


def _select(api: Api, query: str) -> list[Object]:
    return sorted(api.list(EVENTS, fieldSelector=query)["items"], key=_time, reverse=True)


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
