"""Checking a whole registry, and removing what nothing refers to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.channels import current, history
from sdpose.registry.layout import CHANNELS, blob_key, document, mark_key
from sdpose.registry.versions import model_names, read_version, versions
from sdpose.storage import ObjectNotFoundError, Store

GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Problem:
    uri: str
    what: str


def verify(
    store: Store,
    model_name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """Every object of a registry (of one model) that is not what it should be; every byte is read.

    progress: is told (objects checked, objects).
    """
    names = [model_name] if model_name else model_names(store)
    checks = [check for name in names for check in _checks_of(store, name)]
    problems: list[Problem] = []
    checked_blobs: set[str] = set()
    for done, (uri, check) in enumerate(checks, start=1):
        try:
            problems += [Problem(uri, what) for what in check(checked_blobs)]
        except UserError as error:
            problems.append(Problem(uri, str(error)))
        if progress:
            progress(done, len(checks))
    return problems


Check = Callable[[set[str]], Iterator[str]]


def _checks_of(store: Store, name: str) -> Iterator[tuple[str, Check]]:
    numbers = sorted(int(PurePosixPath(key).stem) for key in store.list(f"models/{name}/versions"))
    for number in numbers:
        yield (
            store.uri(f"models/{name}/versions/{number}.json"),
            lambda done, number=number: _check_version(store, name, number, done),  # type: ignore[misc]
        )
    for channel in CHANNELS:
        yield (
            store.uri(f"models/{name}/channels/{channel}"),
            lambda done, channel=channel: _check_channel(store, name, channel),  # type: ignore[misc]
        )


def _check_version(store: Store, name: str, number: int, done: set[str]) -> Iterator[str]:
    version = read_version(store, name, number)  # raises what it finds
    if version.sha256 in done:
        return
    done.add(version.sha256)
    try:
        stored = store.digest(blob_key(version.sha256))
    except ObjectNotFoundError:
        yield f"its weights are missing: {version.weights_uri}"
        return
    if stored != version.sha256:
        yield f"its weights are damaged: {version.weights_uri} has SHA-256 {stored}"


def _check_channel(store: Store, name: str, channel: str) -> Iterator[str]:
    records = history(store, name, channel)
    generations = [record["generation"] for record in records]
    if generations != list(range(1, len(records) + 1)):
        yield f"its history is not a sequence: generations {generations}"
    pointer = current(store, name, channel)
    if pointer is None and records:
        yield "its pointer is missing"
    for record in records:
        version = read_version(store, name, record["version"])
        if version.manifest_sha256 != record["manifest_sha256"]:
            yield (
                f"generation {record['generation']} promoted another manifest of version "
                f"{record['version']} than the one that is there"
            )


@dataclass(frozen=True)
class Collected:
    """Blobs, by SHA-256, and leftovers of interrupted writers, by key."""

    marked: tuple[str, ...]  # unreferenced since this call
    waiting: tuple[str, ...]  # unreferenced, marked less than the grace ago
    deleted: tuple[str, ...]
    leftovers: tuple[str, ...]


def gc(store: Store, *, grace: timedelta = GRACE, dry_run: bool = True) -> Collected:
    """Removes weights that no version names, and what interrupted writers left.

    Every version keeps its weights, so pointers, histories and runs cannot lose theirs. A blob is
    marked first and deleted by a later call, when the mark is older than `grace`; a registration
    that needs it meanwhile takes the mark back, and one that runs at the same moment waits or puts
    the bytes there again (`register._keep_from_gc`). dry_run: only says what would be done.
    """
    now = datetime.now(UTC)
    blobs = [PurePosixPath(key).name for key in store.list("blobs/sha256")]
    referenced = _referenced(store)
    marked, waiting, ripe = [], [], []
    for sha256 in blobs:
        if sha256 in referenced:
            continue
        found = store.read_tagged(mark_key(sha256))
        if found is None:
            marked.append(sha256)
            if not dry_run:
                store.put_if_absent(mark_key(sha256), document({"marked_at": now.isoformat()}))
        elif now - _marked_at(found[0]) < grace:
            waiting.append(sha256)
        else:
            ripe.append((sha256, found))
    if not dry_run:
        ripe = [
            (sha256, (data, tag))
            for sha256, (data, tag) in ripe
            if store.swap(mark_key(sha256), document(json.loads(data) | {"deleting": True}), tag)
        ]
        referenced = _referenced(store)  # whoever came before the swaps is seen here
        for sha256, _ in ripe:
            if sha256 not in referenced:
                store.delete(blob_key(sha256))
            store.delete(mark_key(sha256))
    return Collected(
        marked=tuple(marked),
        waiting=tuple(waiting),
        deleted=tuple(sha256 for sha256, _ in ripe if sha256 not in referenced),
        leftovers=store.sweep(grace, dry_run=dry_run),
    )


def _referenced(store: Store) -> set[str]:
    return {version.sha256 for name in model_names(store) for version in versions(store, name)}


def _marked_at(data: bytes) -> datetime:
    mark: dict[str, Any] = json.loads(data)
    return datetime.fromisoformat(mark["marked_at"]) if "marked_at" in mark else datetime.now(UTC)
