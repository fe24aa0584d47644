"""What a store of objects promises, whatever it is made of."""

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
"""Names one state of one object, for `Store.swap`. Opaque: it belongs to the store that gave it."""


class ObjectNotFoundError(UserError):
    """Nothing is stored under the key."""


class DamagedObjectError(UserError):
    """The bytes under a key are not the ones that were stored there."""


class StoreUnavailableError(UserError):
    """The store did not answer, or refused, after all retries."""


@dataclass(frozen=True)
class Capabilities:
    """What a store was seen to guarantee; `reasons` says for each thing missing what was seen."""

    put_if_absent: bool  # of several writers of a new key exactly one wins
    swap: bool  # of several writers that replace the same state exactly one wins
    checksums: bool  # the store itself refuses bytes that arrived damaged
    reasons: tuple[str, ...] = ()
    etags: bool = False  # what it calls an object tells whether all bytes arrived (an MD5)
    probed_at: str = ""  # ISO 8601, UTC; "" if the store is right by construction


class Store(Protocol):
    """Objects under keys: relative paths with forward slashes.

    A reader sees an object whole or not at all. Every method may raise `StoreUnavailableError` (it
    has tried again then) and `UserError` (configuration, permissions, a key that is none).
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
        """Writes a new object; False, and nothing written, if the key is taken.

        Of several writers of one key exactly one gets True. Refused (UserError) by a store that
        cannot promise it: see `capabilities`.
        """

    def swap(self, key: str, data: bytes, expected: Tag) -> bool:
        """Replaces an object if it is still in the state `expected`; False if it is not.

        Of several writers that expect the same state exactly one gets True. Refused (UserError) by
        a store that cannot promise it: see `capabilities`.
        """

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        """Stores a file, whole or not at all, and makes sure that what arrived is right.

        Bytes that are there already and right are kept, damaged ones are replaced.
        Raises DamagedObjectError if the file is not what `sha256` says.
        """

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        """Fetches an object to `target`, which is replaced when every byte has been verified.

        What an interrupted call left beside `target` is used by the next one. sha256: of the
        content; None: as recorded in the store.
        Raises ObjectNotFoundError, DamagedObjectError; `target` is as it was then.
        """

    def digest(self, key: str) -> str:
        """SHA-256, in hex, of the bytes that are stored now: reads them all."""

    def delete(self, key: str) -> None:
        """Removes an object; no error if there is none."""

    def move(self, key: str, target: str) -> None:
        """Gives an object another key, in place of what is there. Killed in between, it may leave
        the object under both. Raises ObjectNotFoundError."""

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        """Removes what killed writers left (never an object); returns what it is."""

    def capabilities(self) -> Capabilities:
        """What this store guarantees; probed when it was not for some time."""


def check_key(key: str) -> str:
    """The key; UserError if it could lie outside the store or collide with the store's own names.

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
