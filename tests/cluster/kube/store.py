"""The objects of a cluster, with versions, watches, graceful deletion and garbage collection."""

from __future__ import annotations

import contextlib
import copy
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str, str, str]  # group, plural, namespace, name

FOREGROUND = "foregroundDeletion"
TRACKING = "batch.kubernetes.io/job-tracking"  # of a Job's pods, until their end is counted


class StatusError(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": self.reason,
            "message": self.message,
            "code": self.code,
        }


@dataclass(frozen=True)
class Event:
    version: int
    type: str
    key: Key
    object: Object


def now(later_s: float = 0) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=later_s):%Y-%m-%dT%H:%M:%SZ}"


class Store:
    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.horizon = 0  # watches from before it are Gone
        self._objects: dict[Key, Object] = {}
        self._history: list[Event] = []
        self._created: list[Key] = []

    def create(self, group: str, plural: str, item: Object) -> Object:
        item = copy.deepcopy(item)
        meta = item["metadata"]
        key = (group, plural, meta.get("namespace", ""), meta["name"])
        with self.changed:
            if key in self._objects:
                raise StatusError(
                    409, "AlreadyExists", f'{plural}.{group} "{meta["name"]}" already exists'
                )
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            self._created.append(key)
            return self._put("ADDED", key, item)

    def get(self, key: Key) -> Object:
        with self.changed:
            if key not in self._objects:
                raise StatusError(404, "NotFound", f'{key[1]}.{key[0]} "{key[3]}" not found')
            return copy.deepcopy(self._objects[key])

    def list(self, group: str, plural: str, namespace: str = "") -> list[tuple[Key, Object]]:
        with self.changed:
            return [
                (key, copy.deepcopy(item))
                for key, item in self._objects.items()
                if key[:2] == (group, plural) and namespace in ("", key[2])
            ]

    def created_of(self, plural: str) -> list[str]:
        """The names of all that there have ever been."""
        return [key[3] for key in self._created if key[1] == plural]

    def update(self, key: Key, change: Callable[[Object], None]) -> Object | None:
        """Changes an object in place if it (still) exists."""
        with self.changed:
            if key not in self._objects:
                return None
            item = copy.deepcopy(self._objects[key])
            change(item)
            if item == self._objects[key]:
                return item
            return self._put("MODIFIED", key, item)

    def delete(self, key: Key, *, policy: str = "Background", uid: str | None = None) -> Object:
        item = self.get(key)
        if uid is not None and item["metadata"]["uid"] != uid:
            raise StatusError(409, "Conflict", "the UID in the precondition is another one")
        with self.changed:
            if policy == "Foreground":
                self.update(key, _under_deletion)
            elif key[1] == "pods" and item.get("spec", {}).get("nodeName"):
                self.update(key, _under_deletion)  # its kubelet ends it
            else:
                self.remove(key)
        return item

    def discard(self, key: Key, *, policy: str = "Background") -> None:
        """Deletes as a controller does: what is gone already is fine."""
        with contextlib.suppress(StatusError):
            self.delete(key, policy=policy)

    def remove(self, key: Key) -> None:
        """Ends an object, unless somebody has still to look at it."""
        with self.changed:
            there = self._objects.get(key)
            if there is not None and TRACKING in there["metadata"].get("finalizers", []):
                self.update(
                    key, lambda item: item["metadata"].setdefault("deletionTimestamp", now())
                )
                return
            item = self._objects.pop(key, None)
            if item is not None:
                self.version += 1
                item["metadata"]["resourceVersion"] = str(self.version)
                self._history.append(Event(self.version, "DELETED", key, item))
                self.changed.notify_all()

    def collect_garbage(self) -> None:
        """What has lost all its owners goes, and what waits in the foreground for what it owns."""
        with self.changed:
            alive = {item["metadata"]["uid"]: item for item in self._objects.values()}
            owning = {
                owner["uid"]
                for item in self._objects.values()
                for owner in item["metadata"].get("ownerReferences", [])
            }
            for key, item in list(self._objects.items()):
                owners = item["metadata"].get("ownerReferences", [])
                dying = [
                    owner
                    for owner in owners
                    if owner["uid"] in alive
                    and FOREGROUND in alive[owner["uid"]]["metadata"].get("finalizers", [])
                ]
                orphan = owners and not any(owner["uid"] in alive for owner in owners)
                if (orphan or dying) and not item["metadata"].get("deletionTimestamp"):
                    waits = dying and item["metadata"]["uid"] in owning
                    self.delete(key, policy="Foreground" if waits else "Background")
            owned = {
                owner["uid"]
                for item in self._objects.values()
                for owner in item["metadata"].get("ownerReferences", [])
            }
            for key, item in list(self._objects.items()):
                meta = item["metadata"]
                if FOREGROUND in meta.get("finalizers", []) and meta["uid"] not in owned:
                    self.remove(key)

    def events_after(self, version: int, timeout: float) -> list[Event] | None:
        """Waits for news; [] if there are none in time, None if that version is Gone."""
        with self.changed:
            if self.version <= version:
                self.changed.wait(timeout)
            if version < self.horizon:
                return None
            return [event for event in self._history if event.version > version]

    def compact(self) -> None:
        """Forgets the history, as etcd does every five minutes."""
        with self.changed:
            self._history.clear()
            self.version += 1
            self.horizon = self.version
            self.changed.notify_all()

    def _put(self, kind: str, key: Key, item: Object) -> Object:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = item
        self._history.append(Event(self.version, kind, key, copy.deepcopy(item)))
        self.changed.notify_all()
        return copy.deepcopy(item)


def controller_reference(item: Object) -> Object:
    """An owner reference to the object whose controller makes another."""
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "name": item["metadata"]["name"],
        "uid": item["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _under_deletion(item: Object) -> None:
    """Of a pod the time at which its grace period will be over."""
    meta, grace_s = item["metadata"], 0
    if item.get("kind") == "Pod":
        grace_s = item["spec"].get("terminationGracePeriodSeconds", 30)
        meta.setdefault("deletionGracePeriodSeconds", grace_s)
    else:
        meta["finalizers"] = [FOREGROUND]
    meta.setdefault("deletionTimestamp", now(grace_s))


def matches(item: Object, labels: str, fields: str) -> bool:
    """Selectors `a=b,c=d` of labels and of fields."""
    for requirement in filter(None, labels.split(",")):
        name, _, value = requirement.partition("=")
        if item["metadata"].get("labels", {}).get(name) != value:
            return False
    for requirement in filter(None, fields.split(",")):
        path, _, value = requirement.partition("=")
        node: Any = item
        for part in path.split("."):
            node = node.get(part, {})
        if node != value:
            return False
    return True
