"""Kueue, which lets a suspended job start when there is quota for it.

A job with a queue is created suspended: where Kueue does not manage its kind, as PyTorchJob by
default since Kueue 0.19, it would otherwise start at once, past the quota. But then nobody else
resumes it, and the launcher has to notice.
"""

from __future__ import annotations

import time

from components.kube.api import WORKLOADS, Api, Object
from components.kube.errors import ApiError
from components.launcher.failure import JobError
from components.launcher.kinds import Kind, is_served

WORKLOAD_S = 30.0  # Kueue makes it within a second or two
CHECK_EVERY_S = 15.0
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"


class Queue:
    """Of one job, in the LocalQueue that the profile names; None: somebody else suspends jobs."""

    def __init__(self, api: Api, kind: Kind, name: str | None) -> None:
        self._api, self._kind, self._name = api, kind, name
        self._is_managed = name is None
        self._next_check = 0.0
        self._is_missing = False  # Kueue, in this cluster

    def check(self, job: Object, suspended_s: float) -> None:
        """Raises JobError if Kueue has made no Workload for a job that has been suspended so long.

        An API that does not answer, or does not let us look, is no reason.
        """
        now = time.monotonic()
        if self._is_managed or suspended_s < WORKLOAD_S or now < self._next_check:
            return
        self._next_check = now + CHECK_EVERY_S
        api = self._api.brief()
        try:
            self._is_managed = bool(workloads(api, job))
            installed = self._is_managed or is_served(api, WORKLOADS)
        except ApiError as error:
            if error.status != 404 or is_served(api, WORKLOADS):
                return
            installed = False
        if self._is_managed:
            return
        integration = f"{self._kind.resource.group}/{self._kind.name.lower()}"
        if not installed:
            problem = f"this cluster serves no {WORKLOADS.plural}.{WORKLOADS.group}"
            remedies = "install Kueue 0.15 or newer, or leave queue out of the profile"
        else:
            problem = "Kueue does not manage this kind"
            remedies = f"add {integration} to integrations.frameworks of Kueue's configuration"
            if self._kind.train_api == "pytorchjob":
                remedies += " (since 0.19 it is off by default), or use train_api: trainjob"
        raise JobError(
            f"{self._kind.name} {job['metadata']['name']} waits in queue '{self._name}', but no "
            f"Workload appeared within {WORKLOAD_S:.0f} s: {problem}; {remedies}"
        )

    def explain(self, job: Object) -> str:
        """Why the job does not start yet."""
        waits = "suspended; it starts when it is resumed (Kueue does so when there is quota)"
        if self._is_missing:
            return waits
        try:
            found = workloads(self._api.brief(), job)
        except ApiError as error:
            self._is_missing = error.status == 404
            return waits if self._is_missing else f"suspended; no reason can be read: {error}"
        for workload in found:
            for condition in workload.get("status", {}).get("conditions") or []:
                refused = condition["status"] != "True"
                if refused and condition["type"] in {"QuotaReserved", "Admitted"}:
                    return f"in Kueue's queue: {condition.get('message', '').strip()}"
        return waits


def workloads(api: Api, job: Object) -> list[Object]:
    """What Kueue has made of the job."""
    label = f"{JOB_UID_LABEL}={job['metadata']['uid']}"
    found: list[Object] = api.list(WORKLOADS, labelSelector=label)["items"]
    return found
