"""Why a pod ended: what its status says, for people and for the restart budgets."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from components.kube.api import Object

Cause = Literal["preemption", "crash"]

# Signals by which a program ends itself.
CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
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
