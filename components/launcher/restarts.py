"""Counts how often pods start again, and knows when it is enough.

The operator's backoffLimit counts restarts of containers in living pods; pods that it deletes and
creates again, as restartPolicy ExitCode does, escape it. The counts are kept on the job, so that
they outlive the launcher.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from components.kube.api import Object
from components.launcher import ends
from components.launcher.ends import End
from components.launcher.kinds import Kind
from components.profile import Restarts
from sdpose.documents import parse_json

ANNOTATION = "sdpose/restarts"


class Restarted:
    """The restarts of one job, by replica and cause."""

    def __init__(self, kind: Kind, job: Object) -> None:
        self._kind = kind
        stored = job["metadata"].get("annotations", {}).get(ANNOTATION, "{}")
        self.counts = _counts(stored)
        self._pods: dict[str, Object] = {}  # by replica: the latest
        self._replaced: set[str] = set()  # uids of those that have had their place taken
        self._containers: dict[str, int] = {}  # by uid: restarts of the container

    def begin(self, pods: Iterable[Object]) -> None:
        """Takes note of what there is when a launcher comes: whatever ended before was counted by
        the launcher that saw it. (A TrainJob's pods stay when others have taken their places.)"""
        for pod in sorted(pods, key=age):
            replica = self._kind.replica(pod)
            if replica in self._pods:
                self._replaced.add(self._pods[replica]["metadata"]["uid"])
            self._pods[replica] = pod
            count, _ = ends.container_restarts(pod, self._kind.container)
            self._containers[pod["metadata"]["uid"]] = count

    def saw(self, pod: Object, *, deleted: bool = False) -> End | None:
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
            if ends.has_started(before, self._kind.container):
                end = ends.pod_end(before, self._kind.container) or ends.lost(before)
        elif not deleted:
            count, last = ends.container_restarts(pod, self._kind.container)
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
