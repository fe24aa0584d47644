"""The interface of an object store, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from sdpose import retry
from sdpose.errors import UserError
from sdpose.retry import TransientError, retrying

CHUNK_BYTES = 1 << 20
T = TypeVar("T")

Tag = str
"""Identifies one state of one object, for `Store.swap`. Opaque: only its store can compare it."""


class ObjectNotFoundError(UserError):
    """Nothing is stored under the key."""


class DamagedObjectError(UserError):
    """The bytes under a key are not the ones that were stored."""


class StoreUnavailableError(UserError):
    """The store did not answer after all retries."""


@dataclass(frozen=True)
class Capabilities:
    """What a store guarantees, as observed; `reasons` has an observation for each missing one."""

    put_if_absent: bool  # of several writers of a new key exactly one wins
    swap: bool  # of several writers that replace the same state exactly one wins
    checksums: bool  # the store refuses bytes that were damaged in transit
    reasons: tuple[str, ...] = ()
    etags: bool = False  # an ETag is the MD5 of the bytes that arrived
    probed_at: str = ""  # ISO 8601, UTC; "" if it needs no probe


class Store(Protocol):
    """Objects under keys: relative paths with forward slashes.

    A reader sees an object whole or not at all. Every method may raise `StoreUnavailableError`
    (after its retries) and `UserError` (configuration, permissions, an invalid key).
    """

    def uri(self, key: str) -> str:
        """file://... or s3://..., without credentials."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix` ("": all), sorted."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises ObjectNotFoundError, DamagedObjectError."""

    def read_tagged(self, key: str) -> tuple[bytes, Tag] | None:
        """The object and the tag of this state of it; None if there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces an object."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes an object if the key is free; of several writers of one key one gets True.

        Returns:
            False, and nothing was written, if the key is taken.
        Raises:
            UserError: the store does not guarantee this, see `capabilities`.
        """

    def swap(self, key: str, data: bytes, expected: Tag) -> bool:
        """Compare-and-swap: of several writers that expect the same state one gets True.

        Returns:
            False, and nothing was written, if the object is not in the state `expected`.
        Raises:
            UserError: the store does not guarantee this, see `capabilities`.
        """

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        """Stores a file, whole or not at all, and verifies what arrived.

        An object that has these bytes already is kept; a damaged one is replaced.

        Args:
            sha256: of the file, in hex.
        Raises:
            DamagedObjectError: the file has another digest.
        """

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        """Downloads an object to `target`, which is replaced when every byte has been verified.

        An interrupted call leaves a partial file beside `target`, which the next call continues.

        Args:
            sha256: of the content; None: as recorded in the store.
        Raises:
            ObjectNotFoundError, DamagedObjectError: `target` was not changed.
        """

    def digest(self, key: str) -> str:
        """Reads the whole object; its SHA-256 in hex."""

    def delete(self, key: str) -> None:
        """Removes an object; no error if there is none."""

    def move(self, key: str, target: str) -> None:
        """Gives an object another key, and replaces what was there.

        A process that is killed in between may leave the object under both keys.
        Raises ObjectNotFoundError.
        """

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        """Removes leftovers of killed writers (never an object), and returns their names."""

    def capabilities(self) -> Capabilities:
        """What this store guarantees; an S3 endpoint is probed once a week."""


def check_key(key: str) -> str:
    """Returns the key. Raises UserError if it may lie outside the store or be one of its own names.

    >>> check_key("models/sdpose_s/versions/1.json")
    'models/sdpose_s/versions/1.json'
    """
    parts = key.split("/")
    if any(not part or part.startswith(".") or not part.isprintable() for part in parts):
        raise UserError(
            f"'{key}' cannot be stored: give a relative path with forward slashes, no part of it "
            "empty or starting with a dot"
        )
    return key


def retry_transient(
    action: Callable[[], T],
    attempts: int | None = None,
    *,
    progress: Callable[[], object] | None = None,
) -> T:
    """Calls the action again, after growing pauses, while it raises TransientError.

    Args:
        attempts: at most, the first included; None for `sdpose.retry.ATTEMPTS`.
        progress: only attempts between which this value stays the same are counted.
    Raises:
        StoreUnavailableError: all attempts have failed.
    """
    most = attempts or retry.ATTEMPTS
    try:
        return retrying(TransientError, attempts=most, progress=progress)(action)
    except TransientError as error:
        raise StoreUnavailableError(f"gave up after {most} attempts: {error}") from None
