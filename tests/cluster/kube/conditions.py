"""Conditions of a status, as most controllers keep them."""

from __future__ import annotations

import time
from datetime import datetime

from tests.cluster.kube.store import Object, now


def find(item: Object, kind: str) -> Object | None:
    """The condition of a type, whatever its status."""
    conditions = item.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), None)


def is_true(item: Object, *kinds: str) -> bool:
    """Whether any of these is true."""
    return any((c := find(item, kind)) is not None and c["status"] == "True" for kind in kinds)


def put(
    item: Object,
    kind: str,
    reason: str,
    message: str,
    status: str = "True",
    *,
    since: str | None = None,
) -> None:
    """meta.SetStatusCondition: the time is that of the last change of its status."""
    conditions = item.setdefault("status", {}).setdefault("conditions", [])
    new = {"type": kind, "status": status, "reason": reason, "message": message}
    old = find(item, kind)
    if old is None:
        conditions.append(new | {"lastTransitionTime": since or now()})
    else:
        same = old["status"] == status
        old.update(new, lastTransitionTime=old["lastTransitionTime"] if same else since or now())


def drop(item: Object, kind: str) -> None:
    status = item.get("status", {})
    status["conditions"] = [c for c in status.get("conditions", []) if c["type"] != kind]


def age(stamp: str) -> float:
    """Seconds since a timestamp."""
    return time.time() - datetime.fromisoformat(stamp).timestamp()
