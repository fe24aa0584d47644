"""Marks of garbage collection: set by a gc on unreferenced weights, removed by a registration.

A gc may delete weights only after it has swapped their mark to `deleting`. A registration that
finds such a mark waits until it is gone, and uploads the weights again if they are gone too.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from sdpose.registry.documents import Mark, decode, document, new_document
from sdpose.registry.layout import mark_key
from sdpose.storage import DamagedObjectError, Store, Tag

# A gc takes seconds from `deleting` to the end of the deletion; after this time it is dead.
PATIENCE_WITH_GC = 60.0
PAUSE_SECONDS = 0.2


def new_mark(when: datetime, *, deleting: bool = False) -> bytes:
    content: dict[str, Any] = {"marked_at": when.isoformat()}
    return document(new_document(Mark, content | ({"deleting": True} if deleting else {})))


def read_mark(store: Store, sha256: str) -> tuple[datetime, bool, Tag] | None:
    """Reads the mark of some weights.

    Returns:
        When they were marked, whether a gc is deleting them, and the tag of the mark for a swap;
        None if there is no mark.
    Raises:
        DamagedObjectError: the mark cannot be read.
    """
    key = mark_key(sha256)
    found = store.read_tagged(key)
    if found is None:
        return None
    data, tag = found
    mark = decode(Mark, data, store.uri(key))
    when = datetime.fromisoformat(mark["marked_at"])
    return when if when.tzinfo else when.replace(tzinfo=UTC), mark.get("deleting", False), tag


def unmark(store: Store, sha256: str) -> bool:
    """Removes the mark of weights that are needed; waits for a gc that is deleting them.

    Returns:
        Whether there was a mark: the weights may be gone then.
    """
    found = False
    deadline = time.monotonic() + PATIENCE_WITH_GC
    while True:
        try:
            marked = read_mark(store, sha256)
        except DamagedObjectError:
            store.delete(mark_key(sha256))  # the next gc sets a new one
            return True
        if marked is None:
            return found
        found = True
        _, deleting, tag = marked
        if deleting and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
        elif store.swap(mark_key(sha256), new_mark(datetime.now(UTC)), tag):
            store.delete(mark_key(sha256))
            return True
