"""Garbage collection of weights in two reversible steps.

Weights that no document names are marked; when the mark is older than the grace period, a later gc
moves them to the trash; after the grace period there, a later one deletes them.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from sdpose.errors import UserError
from sdpose.registry.gc_marks import new_mark, read_mark
from sdpose.registry.layout import TRASH, TRASH_TIME, blob_key, mark_key, trash_key
from sdpose.registry.references import read_references, remember_seen
from sdpose.storage import ObjectNotFoundError, Store

GRACE = timedelta(days=1)
UPLOADS_TAKE = timedelta(hours=1)  # younger leftovers may be uploads in progress


@dataclass(frozen=True)
class Collected:
    """Weights, by SHA-256, and leftovers of interrupted writers, by key."""

    marked: tuple[str, ...]  # unreferenced since this call
    waiting: tuple[str, ...]  # unreferenced, marked less than the grace period ago
    trashed: tuple[str, ...]  # moved to the trash by this call
    deleted: tuple[str, ...]  # out of the trash, for good
    restored: tuple[str, ...]  # needed, and found in the trash
    leftovers: tuple[str, ...]


@dataclass(frozen=True)
class Trashed:
    key: str
    sha256: str
    at: datetime


def gc(
    store: Store,
    *,
    grace: timedelta = GRACE,
    dry_run: bool = True,
    named_elsewhere: Collection[str] = (),
) -> Collected:
    """Removes weights that no version names, and leftovers of interrupted writers.

    Every version in use keeps its weights, and so does what a pointer or its history names, even if
    the version is gone. Nothing is removed if a document cannot be read, or if manifests, index and
    channels disagree (`references.py`).

    A registration that needs marked weights removes the mark, and one that runs at the same moment
    waits or uploads the bytes again (`gc_marks.py`). After a move to the trash the documents are
    read once more, and needed weights are restored. So nothing is lost at any grace period, however
    long a process is stopped between two steps.

    Args:
        grace: how long weights stay marked, and again how long they stay in the trash.
        dry_run: changes nothing, and returns what would be done.
        named_elsewhere: SHA-256 of more weights to keep.
    Raises:
        DisagreementError, DamagedObjectError: nothing was removed.
    """
    now = datetime.now(UTC)
    # The trash first: this call does not delete what another one moves there from now on.
    trash = list_trash(store)
    blobs = _list_blobs(store)
    found = read_references(store)
    needed = found.weights | set(named_elsewhere)
    lost = sorted((needed & {each.sha256 for each in trash}) - blobs)
    marked, waiting, ripe = [], [], []
    for sha256 in sorted(blobs - needed):
        mark = read_mark(store, sha256)
        if mark is None:
            marked.append(sha256)
        elif now - mark[0] < grace:
            waiting.append(sha256)
        else:
            ripe.append((sha256, mark))
    old = [each for each in trash if each.sha256 not in needed and now - each.at >= grace]
    trashed = [sha256 for sha256, _ in ripe]
    if not dry_run:
        remember_seen(store, found)
        _put_back(store, lost, trash)
        for sha256 in marked:
            store.put_if_absent(mark_key(sha256), new_mark(now))
        claimed = [
            sha256
            for sha256, (when, _, tag) in ripe
            if store.swap(mark_key(sha256), new_mark(when, deleting=True), tag)
        ]
        trashed = _move_to_trash(store, claimed, named_elsewhere)
        for each in old:
            store.delete(each.key)
        _remove_stale_marks(store)
    return Collected(
        marked=tuple(marked),
        waiting=tuple(waiting),
        trashed=tuple(trashed),
        deleted=tuple(dict.fromkeys(each.sha256 for each in old)),
        restored=tuple(lost),
        # At least UPLOADS_TAKE, whatever the grace period: others may be writing.
        leftovers=store.sweep(max(grace, UPLOADS_TAKE), dry_run=dry_run),
    )


def restore(store: Store, chosen: Collection[str] = ()) -> list[str]:
    """Restores weights from the trash: those chosen by SHA-256, or all.

    The next gc marks again what no version names; the grace period starts then.

    Returns:
        SHA-256 of the weights that were restored.
    """
    trash = list_trash(store)
    there = {each.sha256 for each in trash}
    if missing := sorted(set(chosen) - there):
        raise UserError(
            f"not in the trash: {', '.join(missing)}; there are: {', '.join(sorted(there)) or '-'}"
        )
    wanted = sorted((set(chosen) or there) - _list_blobs(store))
    _put_back(store, wanted, trash)
    return wanted


def list_trash(store: Store) -> list[Trashed]:
    """The weights in the trash, oldest first; foreign files are ignored."""
    found = []
    for key in store.list(TRASH):
        path = PurePosixPath(key)
        try:
            when = datetime.strptime(path.name.rpartition("-")[0], TRASH_TIME).replace(tzinfo=UTC)
        except ValueError:
            continue
        found.append(Trashed(key, path.parent.name, when))
    return sorted(found, key=lambda each: each.at)


def _list_blobs(store: Store) -> set[str]:
    return {PurePosixPath(key).name for key in store.list("blobs/sha256")}


def _move_to_trash(store: Store, claimed: list[str], named_elsewhere: Collection[str]) -> list[str]:
    """Moves weights whose mark says `deleting`; returns those that are in the trash now."""
    if not claimed:
        return []
    # Versions that were registered before the marks said so are seen here.
    needed = read_references(store).weights | set(named_elsewhere)
    unneeded = [sha256 for sha256 in claimed if sha256 not in needed]
    moved = []
    for sha256 in unneeded:
        target = trash_key(sha256, datetime.now(UTC), uuid.uuid4().hex[:8])
        try:
            store.move(blob_key(sha256), target)
        except ObjectNotFoundError:  # another gc was faster
            continue
        moved.append(sha256)
    if moved:
        # A registration waits for `deleting` marks for a limited time, and this process may have
        # been stopped for longer.
        needed = read_references(store).weights
        _put_back(store, [sha256 for sha256 in moved if sha256 in needed], list_trash(store))
    for sha256 in claimed:
        store.delete(mark_key(sha256))
    return [sha256 for sha256 in moved if sha256 not in needed]


def _put_back(store: Store, wanted: list[str], trash: list[Trashed]) -> None:
    newest = {each.sha256: each.key for each in trash}
    for sha256 in wanted:
        if sha256 in newest and not store.exists(blob_key(sha256)):
            try:
                store.move(newest[sha256], blob_key(sha256))
            except ObjectNotFoundError:  # another gc put it back
                continue


def _remove_stale_marks(store: Store) -> None:
    """Removes marks of weights that are gone: their gc was killed before it removed the mark."""
    there = _list_blobs(store)
    for key in store.list("gc/marks"):
        if PurePosixPath(key).name.removesuffix(".json") not in there:
            store.delete(key)
