"""Checking a whole registry, and removing what nothing refers to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from sdpose.errors import UserError
from sdpose.registry.channels import Record, history
from sdpose.registry.documents import document, read_sealed
from sdpose.registry.layout import (
    CHANNELS,
    POINTER,
    blob_key,
    check_model_name,
    index_key,
    manifest_key,
    mark_key,
)
from sdpose.registry.marks import new_mark, read_mark
from sdpose.registry.signatures import SignatureError, Verifier, read_signature
from sdpose.registry.versions import (
    ModelVersion,
    read_index,
    read_version,
    summary_of,
    versions,
)
from sdpose.storage import DamagedObjectError, Store, StoreUnavailableError

GRACE = timedelta(days=1)
# What an upload under way has written so far looks like what a dead one left.
UPLOADS_TAKE = timedelta(hours=1)
NEW_INDEX = "delete it, and the next `list` makes a new one"


@dataclass(frozen=True)
class Problem:
    uri: str
    what: str


def verify(
    store: Store,
    model_name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    verifier: Verifier | None = None,
) -> list[Problem]:
    """Every object of a registry (of one model) that is not what it should be; every byte is read.

    progress: is told (objects checked, objects). verifier: every version must be signed, and by its
    key. Raises StoreUnavailableError.
    """
    prefix = f"models/{check_model_name(model_name)}" if model_name else "models"
    found = _Found(store, [])
    # Pointers come first: what they name, and all moves before, are there when the rest is listed.
    pointers = [key for key in store.list(prefix) if key.endswith(f"/{POINTER}")]
    for key in pointers:
        found.look_at(key)
    keys = sorted(set(store.list(prefix)) - set(pointers))
    there = {PurePosixPath(key).name for key in store.list("blobs/sha256")}
    for done, key in enumerate(keys, start=1):
        found.look_at(key)
        if progress:
            progress(done, len(keys) + len(there))
    found.compare()
    if verifier is not None:
        found.check_signatures(verifier)
    for sha256, users in found.users.items():
        if sha256 not in there:
            found.problem(blob_key(sha256), f"the weights of {', '.join(users)} are missing")
    wanted = sorted(there & set(found.users) if model_name else there)
    for done, sha256 in enumerate(wanted, start=1):
        found.check_blob(sha256)
        if progress:
            progress(len(keys) + done, len(keys) + len(wanted))
    return found.problems


@dataclass
class _Found:
    """What `verify` has read so far."""

    store: Store
    problems: list[Problem]
    versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)  # of weights, by their SHA-256
    records: dict[str, dict[str, Record]] = field(default_factory=dict)  # channel's folder: {file}

    def problem(self, key: str, what: str) -> None:
        self.problems.append(Problem(self.store.uri(key), what))

    def look_at(self, key: str) -> None:
        parts = PurePosixPath(key).parts
        try:
            if parts[2] == "versions":
                version = read_version(self.store, parts[1], int(PurePosixPath(key).stem))
                self.versions[parts[1], version.version] = version
                user = f"{version.model_name} version {version.version}"
                self.users.setdefault(version.sha256, []).append(user)
            elif parts[2] == "index.json":
                if not read_index(self.store, parts[1]):
                    self.problem(key, f"it cannot be read; {NEW_INDEX}")
            elif parts[2] == "signatures":
                number = int(PurePosixPath(key).stem)
                read_signature(self.store, read_version(self.store, parts[1], number))
            elif parts[2] == "channels":
                record = read_sealed(self.store.read(key), self.store.uri(key))
                if "refused" not in parts:
                    self.records.setdefault("/".join(parts[:4]), {})[key] = record
        except StoreUnavailableError:
            raise
        except UserError as error:
            self.problem(key, str(error))
        except ValueError:
            self.problem(key, "it does not belong here: its name is no number")

    def compare(self) -> None:
        """Do the documents that can be read agree?"""
        for name in sorted({name for name, _ in self.versions}):
            rows = {n: summary_of(v.manifest) for (m, n), v in self.versions.items() if m == name}
            index = read_index(self.store, name)
            if any(index[number] != row for number, row in rows.items() if number in index):
                what = f"it does not agree with the manifests; {NEW_INDEX}"
                self.problem(index_key(name), what)
            for number in sorted(index.keys() - rows.keys()):
                if not self.store.exists(key := manifest_key(name, number)):
                    self.problem(key, "the manifest is missing: the index has this version")
        for folder, records in self.records.items():
            pointer = records.pop(f"{folder}/{POINTER}", None)
            history = [record for _, record in sorted(records.items())]
            if pointer is None:
                self.problem(f"{folder}/{POINTER}", "the pointer is missing or damaged")
            elif pointer not in history:
                history.append(pointer)  # whoever moved it was stopped before writing it down
            elif pointer != history[-1] and self.store.read(f"{folder}/{POINTER}") == document(
                pointer
            ):
                self.problem(f"{folder}/{POINTER}", "it is older than its history")
            generations = [record["generation"] for record in history]
            if generations != list(range(1, len(generations) + 1)):
                what = f"the history is not a whole sequence: generations {generations}"
                self.problem(f"{folder}/history", what)
            for record in history:
                version = self.versions.get((record["model_name"], record["version"]))
                if version is None or version.manifest_sha256 != record["manifest_sha256"]:
                    what = f"version {record['version']} is not the one that was promoted"
                    self.problem(folder, f"generation {record['generation']}: {what}")

    def check_signatures(self, verifier: Verifier) -> None:
        for version in self.versions.values():
            try:
                verifier.check(self.store, version)
            except SignatureError as error:
                self.problem(manifest_key(version.model_name, version.version), str(error))
            except DamagedObjectError:
                pass  # it is named already

    def check_blob(self, sha256: str) -> None:
        key = blob_key(sha256)
        try:
            stored = self.store.digest(key)
        except StoreUnavailableError:
            raise
        except UserError as error:
            self.problem(key, str(error))
            return
        if stored != sha256:
            users = ", ".join(self.users.get(sha256, ["no version"]))
            self.problem(key, f"damaged: it has SHA-256 {stored}; the weights of {users}")


@dataclass(frozen=True)
class Collected:
    """Blobs, by SHA-256, and leftovers of interrupted writers, by key."""

    marked: tuple[str, ...]  # unreferenced since this call
    waiting: tuple[str, ...]  # unreferenced, marked less than the grace ago
    deleted: tuple[str, ...]
    leftovers: tuple[str, ...]


def gc(
    store: Store,
    *,
    grace: timedelta = GRACE,
    dry_run: bool = True,
    named_elsewhere: Collection[str] = (),
) -> Collected:
    """Removes weights that no version names, and what interrupted writers left.

    Every version keeps its weights, so runs cannot lose theirs; what a pointer or its history names
    stays even if the version is gone. With a document that cannot be read nothing is removed. A
    blob is marked first and deleted by a later call, when the mark is older than `grace`; a
    registration that needs it meanwhile takes the mark back, and one that runs at the same moment
    waits or puts the bytes there again (`register._keep_from_gc`). dry_run: only says what would be
    done. Leftovers are at least UPLOADS_TAKE old, whatever the grace: others may be writing.
    named_elsewhere: SHA-256 of more weights that stay.
    """
    now = datetime.now(UTC)
    blobs = [PurePosixPath(key).name for key in store.list("blobs/sha256")]
    referenced = _referenced(store)
    marked, waiting, ripe = [], [], []
    for sha256 in blobs:
        if sha256 in referenced or sha256 in named_elsewhere:
            continue
        found = read_mark(store, sha256)
        if found is None:
            marked.append(sha256)
            if not dry_run:
                store.put_if_absent(mark_key(sha256), new_mark(now))
        elif now - found[0] < grace:
            waiting.append(sha256)
        else:
            ripe.append((sha256, found))
    if not dry_run:
        ripe = [
            (sha256, (when, deleting, tag))
            for sha256, (when, deleting, tag) in ripe
            if store.swap(mark_key(sha256), new_mark(when, deleting=True), tag)
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
        leftovers=store.sweep(max(grace, UPLOADS_TAKE), dry_run=dry_run),
    )


def _referenced(store: Store) -> set[str]:
    """Weights that a version, a pointer or a history names."""
    names = {PurePosixPath(key).parts[1] for key in store.list("models")}
    of_versions = {version.sha256 for name in names for version in versions(store, name)}
    return of_versions | {
        record["sha256"]
        for name in names
        for channel in CHANNELS
        for record in history(store, name, channel)
    }
