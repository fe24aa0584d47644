"""Why a pod ended, and how often pods have started again.

The operator's backoffLimit counts restarts of containers in living pods; pods that it deletes and
creates again, as restartPolicy ExitCode does, escape it. The counts are kept on the job, so that
they outlive the launcher.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from components.kube.api import Object
from components.launcher.kinds import Kind
from components.profile import Restarts
from sdpose.documents import parse_json

Cause = Literal["preemption", "crash"]

# Signals by which a program ends itself.
CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
ANNOTATION = "sdpose/restarts"
# An eviction for what the pod itself used up happens again in its next life.
OWN_FAULT = ("exceeds the limit", "exceeded its local ephemeral storage limit", "exceeds its")


@dataclass(frozen=True)
class End:
    """How a pod ended."""

    exit_code: int | None  # None: nobody saw it, as when its node is lost
    reason: str  # OOMKilled, Error, Evicted, Preempted, NodeLost, ...
    message: str
    cause: Cause

    @property
    def is_permanent(self) -> bool:
        """Whether it would end so again: restartPolicy ExitCode's rule, for operators without it.

        (`sdpose launch` ends with 128 or more if another try may help.)
        """
        return self.cause == "crash" and self.exit_code in range(1, 128)

    def __str__(self) -> str:
        code = "no exit code" if self.exit_code is None else f"exit code {self.exit_code}"
        killed = _signal_name(self.exit_code)
        text = f"{code}{f' ({killed})' if killed else ''}, {self.reason}"
        return f"{text}: {self.message}" if self.message else text


def pod_end(pod: Object, container: str) -> End | None:
    """How this pod ended; None if it has not failed. One that vanished while it ran was lost.

    A container that failed before training (an init container's) is the end of the pod, too.
    """
    status = pod.get("status", {})
    terminated = _terminated(status, container)
    disrupted = next(
        (
            c
            for c in status.get("conditions") or []
            if c["type"] == "DisruptionTarget" and c["status"] == "True"
        ),
        None,
    )
    reason, message = status.get("reason", ""), status.get("message", "")
    code = terminated.get("exitCode") if terminated else None
    if status.get("phase") != "Failed" and not code and not disrupted and not reason:
        return None
    if disrupted and not reason:
        reason, message = disrupted.get("reason", ""), disrupted.get("message", "")
    if terminated and (not reason or terminated.get("reason") == "OOMKilled"):
        reason, message = terminated.get("reason", "Error"), terminated.get("message", "")
    return End(code, reason or "Failed", message.strip(), _cause(code, reason, message, disrupted))


def lost(pod: Object) -> End:
    """Of a pod that is gone without an end that anybody saw: deleted, or its node is."""
    return End(None, "Deleted", pod.get("status", {}).get("message", ""), "preemption")


def has_started(pod: Object, container: str) -> bool:
    """Whether the container has ever run in this pod."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == container:
            states = {**status.get("state", {}), **status.get("lastState", {})}
            return "running" in states or "terminated" in states
    return False


def container_restarts(pod: Object, container: str) -> tuple[int, End | None]:
    """How often the kubelet started the container again in its pod, and how it ended last."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == container and status.get("restartCount"):
            last = status.get("lastState", {}).get("terminated") or {}
            code, reason = last.get("exitCode"), last.get("reason", "Error")
            end = End(code, reason, last.get("message", ""), _cause(code, reason, "", None))
            return status["restartCount"], end
    return 0, None


def _terminated(status: Object, container: str) -> Object | None:
    statuses = [
        *(s for s in status.get("containerStatuses") or [] if s["name"] == container),
        *(status.get("initContainerStatuses") or []),
    ]
    ended = [s.get("state", {}).get("terminated") for s in statuses]
    failed = [e for e in ended if e and e.get("exitCode")]
    return failed[0] if failed else next((e for e in ended if e), None)


def _cause(code: int | None, reason: str, message: str, disrupted: Object | None) -> Cause:
    if reason == "OOMKilled" or any(text in message for text in OWN_FAULT):
        return "crash"
    if disrupted or code is None:
        return "preemption"
    return "preemption" if code > 128 and code - 128 not in CRASHES else "crash"


def _signal_name(code: int | None) -> str | None:
    if code is None or code <= 128:
        return None
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None


class RestartCounts:
    """The restarts of one job, by replica and cause."""

    def __init__(self, kind: Kind, job: Object) -> None:
        self._kind = kind
        stored = job["metadata"].get("annotations", {}).get(ANNOTATION, "{}")
        self.counts = _counts(stored)
        self._pods: dict[str, Object] = {}  # by replica: the latest
        self._replaced: set[str] = set()  # uids of those that have had their place taken
        self._containers: dict[str, int] = {}  # by uid: restarts of the container

    def take_baseline(self, pods: Iterable[Object]) -> None:
        """Takes note of what there is when a launcher comes: whatever ended before was counted by
        the launcher that saw it. (A TrainJob's pods stay when others have taken their places.)"""
        for pod in sorted(pods, key=age):
            replica = self._kind.replica(pod)
            if replica in self._pods:
                self._replaced.add(self._pods[replica]["metadata"]["uid"])
            self._pods[replica] = pod
            count, _ = container_restarts(pod, self._kind.container)
            self._containers[pod["metadata"]["uid"]] = count

    def observe(self, pod: Object, *, deleted: bool = False) -> End | None:
        """Takes note of a pod's state; the end of the one whose place it takes, if it is new."""
        replica, uid = self._kind.replica(pod), pod["metadata"]["uid"]
        if uid in self._replaced:
            return None
        before = self._pods.get(replica)
        end = None
        if before is not None and before["metadata"]["uid"] != uid:
            if deleted or age(pod) < age(before):
                return None  # news of the older one
            self._replaced.add(before["metadata"]["uid"])
            # One that never ran has cost nothing; how long that may go on is pending_timeout's.
            if has_started(before, self._kind.container):
                end = pod_end(before, self._kind.container) or lost(before)
        elif not deleted:
            count, last = container_restarts(pod, self._kind.container)
            if count > self._containers.get(uid, 0) and last is not None and before is not None:
                end = last
            self._containers[uid] = count
        self._pods[replica] = pod
        if end is not None:
            causes = self.counts.setdefault(replica, {})
            causes[end.cause] = causes.get(end.cause, 0) + 1
        return end

    def exceeded(self, budget: Restarts) -> str | None:
        """Which replica is past which budget, for people."""
        limits: Mapping[str, int] = budget.model_dump()
        for replica, causes in self.counts.items():
            for cause, count in causes.items():
                if count > limits[cause]:
                    return (
                        f"{replica} had to start again {count} times after a {cause}; allowed are "
                        f"{limits[cause]} (restarts.{cause} in the cluster profile)"
                    )
        return None

    @property
    def total(self) -> int:
        """(Also for other threads: the dicts grow meanwhile.)"""
        return sum(sum(list(causes.values())) for causes in list(self.counts.values()))

    def annotation(self) -> dict[str, str]:
        return {ANNOTATION: json.dumps(self.counts, sort_keys=True)}


def age(pod: Object) -> tuple[str, int]:
    """Orders the pods of a replica, the oldest first. Timestamps are whole seconds: within one, the
    pod that has failed is older than the one in its place."""
    phases = {"Failed": 0, "Succeeded": 1}
    phase = pod.get("status", {}).get("phase")
    return str(pod["metadata"]["creationTimestamp"]), phases.get(phase, 2)


def _counts(stored: str) -> dict[str, dict[str, int]]:
    """What the annotation holds; nothing, if somebody else has written it."""
    try:
        counts = parse_json(stored, ANNOTATION)
        return {
            str(replica): {str(cause): int(count) for cause, count in causes.items()}
            for replica, causes in counts.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
