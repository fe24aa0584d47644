"""Marks: what a gc sets at weights that nothing names, and a registration takes back.

A gc may delete weights only after it has swapped their mark to `deleting`; a registration that
finds such a mark waits until it is gone, and puts the weights there again if they went with it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from sdpose.registry.documents import Mark, decode, document, new_document
from sdpose.registry.layout import mark_key
from sdpose.storage import DamagedObjectError, Store, Tag

# gc takes seconds from here to the end of a deletion; if it died in between, we go on.
PATIENCE_WITH_GC = 60.0
PAUSE_SECONDS = 0.2


def new_mark(when: datetime, *, deleting: bool = False) -> bytes:
    content: dict[str, Any] = {"marked_at": when.isoformat()}
    return document(new_document(Mark, content | ({"deleting": True} if deleting else {})))


def read_mark(store: Store, sha256: str) -> tuple[datetime, bool, Tag] | None:
    """When the weights were marked, whether a gc is deleting them, and the state of the mark; None
    if there is none. Raises DamagedObjectError."""
    key = mark_key(sha256)
    found = store.read_tagged(key)
    if found is None:
        return None
    data, tag = found
    mark = decode(Mark, data, store.uri(key))
    when = datetime.fromisoformat(mark["marked_at"])
    return when if when.tzinfo else when.replace(tzinfo=UTC), mark.get("deleting", False), tag


def unmark(store: Store, sha256: str) -> bool:
    """Removes the mark of weights that are needed, and waits for a gc that is deleting them. True
    if there was a mark: they may be gone then."""
    found = False
    deadline = time.monotonic() + PATIENCE_WITH_GC
    while True:
        try:
            marked = read_mark(store, sha256)
        except DamagedObjectError:
            store.delete(mark_key(sha256))  # it says nothing, and gc sets another one
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
