"""The report of a failed job: the pod whose output explains the failure, and its last lines."""

from __future__ import annotations

import time
from collections.abc import Iterable

from components.launcher.kinds import Kind
from components.launcher.logs import Logs
from components.launcher.pod import Object
from components.launcher.termination import End, lost, pod_end
from sdpose.errors import PEER_ERROR, PEER_LOST

# How long the output of a pod that still runs may take to arrive here.
OUTPUT_DELAY_S = 5.0
TRACEBACK = "Traceback (most recent call last)"


class JobError(Exception):
    """The message is the whole story: which pod, its exit code, the reason, its last lines."""

    def __init__(
        self, message: str, *, exit_code: int | None = None, ended_by_itself: bool = False
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # of the pod that failed
        self.ended_by_itself = ended_by_itself  # False: someone has to remove it

    def add(self, text: str) -> None:
        """Adds a line to the message."""
        self.args = (f"{self.args[0]}\n{text}",)


def job_failed(kind: Kind, job: Object, pods: list[Object], logs: Logs) -> JobError:
    """What happened to a job that its operator calls failed."""
    name = job["metadata"]["name"]
    heading = f"{kind.name} {name} failed: {kind.message(job)}".rstrip(": ")
    ended = [(pod, end) for pod in pods if (end := pod_end(pod, kind.container))]
    if not ended:
        return JobError(heading, ended_by_itself=True)
    # A permanent failure ends a job; what was deleted for it, or lost its peer, came later.
    pod, end = min(
        ended,
        key=lambda each: (
            each[1].cause == "preemption",
            "deletionTimestamp" in each[0]["metadata"],
            _finished(each[0]),
        ),
    )
    return JobError(
        f"{heading}\n{failure_report(kind, pod, end, pods, logs)}",
        exit_code=end.exit_code,
        ended_by_itself=True,
    )


def failure_report(
    kind: Kind, pod: Object, end: End, pods: Iterable[Object], logs: Logs, *, wait: float = 0.0
) -> str:
    """The report of the pod whose output explains the failure that `pod` ended with.

    A process that ends because of another one's error says no more than that. Kubernetes may see
    its pod's end first, and delete the other one, which still ends: its output is known here.

    Args:
        pods: the latest of every replica, also those that are gone.
        wait: seconds for the output of pods that still run.
    """
    own_report = pod_report(kind, pod, str(end), logs)
    replica = kind.replica(pod)
    others = sorted((each for each in pods if kind.replica(each) != replica), key=kind.rank)
    if not end.is_permanent or not others or _explains(logs.tail(pod)):
        return own_report
    cause = _first_to_explain(others, logs, wait)
    if cause is None and not _reports(logs.tail(pod)) and _reports(logs.tail(others[0])):
        cause = others[0]
    if cause is None:
        return own_report
    how = pod_end(cause, kind.container)
    if how is None:
        how = lost(cause) if "deletionTimestamp" in cause["metadata"] else None
    report = pod_report(kind, cause, str(how) if how else "not ended yet", logs)
    return f"{report}\npod {pod['metadata']['name']} ({replica}): {end}"


def _first_to_explain(pods: list[Object], logs: Logs, wait: float) -> Object | None:
    give_up = time.monotonic() + wait
    while True:
        for pod in pods:
            if _explains(logs.tail(pod)):
                return pod
        if time.monotonic() >= give_up:
            return None
        time.sleep(0.1)


def _explains(lines: list[str]) -> bool:
    """Whether a pod's last lines say an error of its own."""
    return any(line.startswith(("error: ", TRACEBACK)) and not _follows(line) for line in lines)


def _reports(lines: list[str]) -> bool:
    """Whether a pod has said anything but that it follows another one."""
    return bool(lines) and not any(map(_follows, lines))


def _follows(line: str) -> bool:
    return PEER_ERROR in line or PEER_LOST in line


def pod_report(kind: Kind, pod: Object, end: str, logs: Logs) -> str:
    lines = "\n".join(f"    {line}" for line in logs.tail(pod)) or "    (no output)"
    name = pod["metadata"]["name"]
    return f"pod {name} ({kind.replica(pod)}): {end}; its last lines:\n{lines}"


def _finished(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    times = [s.get("state", {}).get("terminated", {}).get("finishedAt") for s in statuses]
    return min((time for time in times if time), default="9")
