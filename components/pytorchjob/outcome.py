"""How a job ended when it did not end well."""

from __future__ import annotations

from components.pytorchjob.ends import pod_end
from components.pytorchjob.kinds import Kind
from components.pytorchjob.logs import Logs
from components.pytorchjob.pod import Object


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
        f"{heading}\n{pod_report(kind, pod, str(end), logs)}",
        exit_code=end.exit_code,
        ended_by_itself=True,
    )


def pod_report(kind: Kind, pod: Object, end: str, logs: Logs) -> str:
    lines = "\n".join(f"    {line}" for line in logs.tail(pod)) or "    (no output)"
    name = pod["metadata"]["name"]
    return f"pod {name} ({kind.replica(pod)}): {end}; its last lines:\n{lines}"


def _finished(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    times = [s.get("state", {}).get("terminated", {}).get("finishedAt") for s in statuses]
    return min((time for time in times if time), default="9")
