"""Verifies a registry: reads every object and reports each problem."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sdpose.errors import UserError
from sdpose.registry.channels import Record, chain_breaks, current, parse_move
from sdpose.registry.documents import (
    NOT_FINITE,
    Document,
    Mark,
    NewManifest,
    Refusal,
    Seen,
    Signature,
    Withdrawals,
    decode,
    document,
    flaws,
)
from sdpose.registry.gc import list_trash
from sdpose.registry.layout import (
    CHANNELS,
    NAME,
    POINTER,
    TRASH,
    blob_key,
    check_model_name,
    history_key,
    index_key,
    manifest_key,
    number_of,
    pointer_key,
    withdrawals_key,
)
from sdpose.registry.rollback_protection import OlderPointerError
from sdpose.registry.signatures import SignatureError, Verifier, read_signature
from sdpose.registry.versions import (
    NEW_INDEX,
    WITHDRAW,
    ModelVersion,
    digests_of,
    parse_index,
    read_version,
    summary_of,
)
from sdpose.registry.withdrawals import Withdrawal, read_withdrawals
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store, StoreUnavailableError

STRANGER = "it does not belong here"


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
    """Reads every byte of a registry (of one model), and returns the problems.

    Objects of a withdrawn version may be damaged or missing.

    Args:
        progress: gets (objects checked, objects).
        verifier: every version and pointer must be signed by its key (a pointer covers the moves
            before it), and no pointer may be older than one that this machine has seen.
    Raises:
        StoreUnavailableError: the store does not answer.
    """
    prefix = f"models/{check_model_name(model_name)}" if model_name else "models"
    found = _Found(store, verifier=verifier)
    # Pointers first: the listing that follows has what they name, and all moves before.
    pointers = [key for key in store.list(prefix) if key.endswith(f"/{POINTER}")]
    for key in pointers:
        found.look_at(key)
    keys = sorted(set(store.list(prefix)) - set(pointers))
    keys += [] if model_name else [key for key in store.list("gc") if not _is_trash(key)]
    there = {PurePosixPath(key).name for key in store.list("blobs/sha256")}
    for done, key in enumerate(keys, start=1):
        found.look_at(key)
        if progress:
            progress(done, len(keys) + len(there))
    found.compare()
    found.check_signatures()
    found.check_missing(there)
    wanted = sorted(there & set(found.users) if model_name else there)
    for done, sha256 in enumerate(wanted, start=1):
        found.check_blob(sha256)
        if progress:
            progress(len(keys) + done, len(keys) + len(wanted))
    return found.problems


def _is_trash(key: str) -> bool:
    return key.startswith(f"{TRASH}/")


@dataclass
class _Found:
    """What `verify` has read and found so far."""

    store: Store
    verifier: Verifier | None = None
    problems: list[Problem] = field(default_factory=list)
    versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)  # of weights, by their SHA-256
    # (model, channel) -> {key: record}
    records: dict[tuple[str, str], dict[str, Record]] = field(default_factory=dict)
    withdrawn: dict[str, dict[int, Withdrawal]] = field(default_factory=dict)

    def problem(self, key: str, what: str) -> None:
        self.problems.append(Problem(self.store.uri(key), what))

    def withdrawn_of(self, name: str) -> dict[int, Withdrawal]:
        if name not in self.withdrawn:
            try:
                self.withdrawn[name] = read_withdrawals(self.store, name)
            except DamagedObjectError as error:
                self.withdrawn[name] = {}
                self.problem(withdrawals_key(name), str(error))
        return self.withdrawn[name]

    def look_at(self, key: str) -> None:
        try:
            self._read(key)
        except StoreUnavailableError:
            raise
        except ObjectNotFoundError:
            pass  # it was removed meanwhile; what needs it is reported
        except UserError as error:
            self.problem(key, str(error))

    def _read(self, key: str) -> None:
        match PurePosixPath(key).parts:
            case ("models", name, *_) if not NAME.fullmatch(name):
                self.problem(key, STRANGER)
            case ("models", name, "versions", file) if number := _number(file):
                if number not in self.withdrawn_of(name):
                    self._read_manifest(key, name, number)
            case ("models", name, "signatures", file) if number := _number(file):
                if number not in self.withdrawn_of(name):
                    self._read_document(Signature, key)
                    read_signature(self.store, read_version(self.store, name, number))
            case ("models", name, "index.json"):
                self._read_index(key)
            case ("models", name, "withdrawn.json"):
                self.withdrawn_of(name)  # names a damaged one
                with contextlib.suppress(DamagedObjectError):
                    self._read_document(Withdrawals, key)
            case ("models", name, "channels", channel, *rest) if channel in CHANNELS:
                self._read_record(key, name, channel, rest)
            case ("gc", "marks", _):
                self._read_document(Mark, key)
            case ("gc", "seen.json"):
                self._read_document(Seen, key)
            case _:
                self.problem(key, STRANGER)

    def _read_manifest(self, key: str, name: str, number: int) -> None:
        try:
            version = read_version(self.store, name, number)
        except DamagedObjectError as error:
            self.problem(key, f"{error}; {WITHDRAW}")
            return
        self.versions[name, number] = version
        self.users.setdefault(version.sha256, []).append(f"{name} version {number}")
        if malformed := flaws(NewManifest, version.manifest):
            self.problem(key, f"malformed: {malformed}; {WITHDRAW}")
        else:
            self._check_form(key, version.manifest_sha256, version.manifest)
        if version.manifest != version.manifest | digests_of(version.manifest):
            self.problem(key, "malformed: its digests are not those of what it says")

    def _read_document(self, kind: type[Document], key: str) -> None:
        data = self.store.read(key)
        content = decode(kind, data, self.store.uri(key))
        self._check_form(key, hashlib.sha256(data).hexdigest(), content)

    def _read_index(self, key: str) -> None:
        try:
            parse_index(self.store.read(key), self.store.uri(key))
        except DamagedObjectError as error:
            self.problem(key, f"{error}; {NEW_INDEX}")

    def _read_record(self, key: str, name: str, channel: str, rest: list[str]) -> None:
        data, uri = self.store.read(key), self.store.uri(key)
        match rest:
            case ["refused", _]:
                record = decode(Refusal, data, uri)
            case ["history", _] | ["pointer.json"]:
                record = parse_move(data, uri, name, channel)
                if rest[0] == "history" and key != history_key(name, channel, record["generation"]):
                    self.problem(key, f"it is the record of generation {record['generation']}")
                    return
                self.records.setdefault((name, channel), {})[key] = record
            case _:
                self.problem(key, STRANGER)
                return
        self._check_form(key, hashlib.sha256(data).hexdigest(), record)

    def _check_form(self, key: str, sha256: str, content: dict[str, Any]) -> None:
        """Reports other bytes than we write: a seal does not cover white space and the like.

        Args:
            sha256: of the stored bytes.
        """
        try:
            if hashlib.sha256(document(content)).hexdigest() != sha256:
                self.problem(key, "damaged: it is not the document that was written there")
        except ValueError:
            self.problem(key, f"malformed: {NOT_FINITE}")

    def compare(self) -> None:
        """Reports readable documents that disagree."""
        for name in sorted({name for name, _ in self.versions}):
            self._compare_index(name)
        for (name, channel), records in self.records.items():
            self._compare_records(name, channel, records)

    def _compare_index(self, name: str) -> None:
        rows = {n: summary_of(v.manifest) for (m, n), v in self.versions.items() if m == name}
        key = index_key(name)
        try:
            index = parse_index(self.store.read(key), self.store.uri(key))
        except (ObjectNotFoundError, DamagedObjectError):
            return  # it may be deleted, and a damaged one is named already
        if any(index[number] != row for number, row in rows.items() if number in index):
            self.problem(key, f"it does not agree with the manifests; {NEW_INDEX}")
        for number in sorted(index.keys() - rows.keys() - self.withdrawn_of(name).keys()):
            if not self.store.exists(manifest := manifest_key(name, number)):
                self.problem(manifest, "the manifest is missing: the index has this version")

    def _compare_records(self, name: str, channel: str, records: dict[str, Record]) -> None:
        key = pointer_key(name, channel)
        folder = str(PurePosixPath(key).parent)
        withdrawn = self.withdrawn_of(name)
        pointer = records.pop(key, None)
        history = [record for _, record in sorted(records.items())]
        if pointer is None:
            self.problem(key, "the pointer is missing or damaged")
        elif pointer not in history:
            history.append(pointer)  # its writer was killed before it added the record
        elif pointer != history[-1] and self.store.read(key) == document(pointer):
            self.problem(key, "it is older than its history")
        if pointer is not None and pointer["version"] in withdrawn:
            self.problem(key, f"version {pointer['version']} is withdrawn; promote another one")
        for broken in chain_breaks(history):
            self.problem(f"{folder}/history", broken)
        for record in history:
            version = self.versions.get((name, record["version"]))
            if record["version"] in withdrawn:
                continue
            if version is None or version.manifest_sha256 != record["manifest_sha256"]:
                what = f"version {record['version']} is not the one that was promoted"
                self.problem(folder, f"generation {record['generation']}: {what}")

    def check_signatures(self) -> None:
        if self.verifier is None:
            return
        for version in self.versions.values():
            try:
                self.verifier.check(self.store, version)
            except SignatureError as error:
                self.problem(manifest_key(version.model_name, version.version), str(error))
            except DamagedObjectError:
                pass  # it is named already
        models = {name for name, _ in (*self.versions, *self.records)}
        for name, channel in itertools.product(sorted(models), CHANNELS):
            try:
                current(self.store, name, channel, self.verifier)
            except (SignatureError, OlderPointerError) as error:
                self.problem(pointer_key(name, channel), str(error))
            except DamagedObjectError:
                pass  # it is named already

    def check_missing(self, there: set[str]) -> None:
        """there: the weights that are stored."""
        trash = {each.sha256 for each in list_trash(self.store)}
        for sha256, users in self.users.items():
            if sha256 in there:
                continue
            what = f"the weights of {', '.join(users)} are missing"
            if sha256 in trash:
                what += "; they are in the trash: `sdpose registry gc --restore`"
            self.problem(blob_key(sha256), what)

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


def _number(file: str) -> int | None:
    return number_of(file.removesuffix(".json")) if file.endswith(".json") else None
