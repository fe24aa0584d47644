"""What an S3 endpoint really guarantees: asked by trying, a race included, and remembered.

Some endpoints do not know conditional writes (501), some accept the header and ignore it, some let
several writers of a race win. The documentation does not tell; a trial does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

from sdpose.cache import cache_dir, read_record, write_record
from sdpose.errors import UserError
from sdpose.files import open_own
from sdpose.locking import lock
from sdpose.storage.patience import InterruptionError, patiently
from sdpose.storage.s3_client import (
    ConditionFailedError,
    DamagedUploadError,
    NotImplementedByServerError,
    attempts,
    call,
)
from sdpose.storage.store import Capabilities, ObjectNotFoundError, StoreUnavailableError

EXPIRY = timedelta(days=7)
WRITERS, ROUNDS = 8, 3
FOLDER = ".sdpose-probe"


def remembered(client: Any, bucket: str, prefix: str) -> Capabilities:
    """What the endpoint guarantees for the bucket; probed if that is not known, or a week old."""
    endpoint = str(client.meta.endpoint_url)
    name = hashlib.sha256(f"{endpoint} {bucket}".encode()).hexdigest()[:32]
    path = cache_dir() / "s3" / f"{name}.json"
    with _alone(path.with_suffix(".lock")):
        known = _read(path)
        if known is not None:
            return known
        found = probe(client, bucket, prefix)
        write_record(path, {"endpoint": endpoint, "bucket": bucket, **asdict(found)})
        return found


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Whoever wants to probe the same waits here, and finds what was seen."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, shared=True)
    except OSError:  # a read-only home: everyone probes, every time
        yield
        return
    try:
        lock(descriptor)  # where there are no locks, everyone probes
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> Capabilities | None:
    try:
        content = read_record(path)
        if datetime.now(UTC) - datetime.fromisoformat(content["probed_at"]) > EXPIRY:
            return None
        return Capabilities(
            put_if_absent=bool(content["put_if_absent"]),
            swap=bool(content["swap"]),
            checksums=bool(content["checksums"]),
            reasons=tuple(content["reasons"]),
            probed_at=str(content["probed_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def probe(client: Any, bucket: str, prefix: str) -> Capabilities:
    """Writes a few small objects below `.sdpose-probe/`, and removes them.

    Raises UserError if the bucket cannot be written at all.
    """
    trial = _Trial(client, bucket, f"{prefix}/{FOLDER}".lstrip("/"))
    try:
        reasons = {
            "put_if_absent": trial.put_if_absent(),
            "swap": trial.swap(),
            "checksums": trial.checksums(),
        }
    finally:
        trial.clean()
    return Capabilities(
        **{what: reason is None for what, reason in reasons.items()},
        reasons=tuple(reason for reason in reasons.values() if reason),
        probed_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _Trial:
    def __init__(self, client: Any, bucket: str, folder: str) -> None:
        self._client, self._bucket, self._folder = client, bucket, folder
        self._where = f"s3://{bucket}/{folder}"
        self._keys: list[str] = []

    def put_if_absent(self) -> str | None:
        """None if it is guaranteed, else what was seen."""
        key = self._new_key()
        self._put(key, b"first")
        if (seen := self._must_fail("If-None-Match", key, IfNoneMatch="*")) is not None:
            return seen
        return self._race("If-None-Match", lambda: (self._new_key(), {"IfNoneMatch": "*"}))

    def swap(self) -> str | None:
        key = self._new_key()
        etag = self._put(key, b"first")
        if (seen := self._must_fail("If-Match", key, IfMatch='"0123456789abcdef"')) is not None:
            return seen
        refusal = self._refusal(key, b"second", IfMatch=etag)
        if refusal and self._get(key) != b"second":  # else only the answer was lost
            return f"If-Match: the right ETag was refused: {refusal}"

        def again() -> tuple[str, dict[str, Any]]:
            key = self._new_key()
            return key, {"IfMatch": self._put(key, b"first")}

        return self._race("If-Match", again)

    def checksums(self) -> str | None:
        wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()

        def refused() -> bool:
            try:
                self._put(self._new_key(), b"these", once=True, ContentMD5=wrong)
            except DamagedUploadError:
                return True
            return False

        if patiently(refused, attempts()):
            return None
        return "Content-MD5: a body that did not fit its checksum was accepted"

    def clean(self) -> None:
        for key in self._keys:
            with contextlib.suppress(UserError, InterruptionError):
                call(self._client.delete_object, self._where, Bucket=self._bucket, Key=key)

    def _must_fail(self, header: str, key: str, **condition: Any) -> str | None:
        refusal = self._refusal(key, b"must not arrive", **condition)
        if refusal is None:
            return f"{header}: the server ignores it: a write that had to be refused was accepted"
        if isinstance(refusal, ConditionFailedError | ObjectNotFoundError):
            return None
        return f"{header}: the server does not know it: {refusal}"

    def _refusal(self, key: str, body: bytes, **condition: Any) -> Exception | None:
        """None if it was written."""
        try:
            self._put(key, body, **condition)
        except StoreUnavailableError:
            raise
        except (ConditionFailedError, NotImplementedByServerError, UserError) as error:
            return error
        return None

    def _race(self, header: str, start: Callable[[], tuple[str, dict[str, Any]]]) -> str | None:
        for _ in range(ROUNDS):
            key, condition = start()
            barrier = Barrier(WRITERS)

            def write(number: int, key: str, condition: dict[str, Any], barrier: Barrier) -> bool:
                barrier.wait()
                try:
                    self._put(key, b"writer %d" % number, once=True, **condition)
                except (ConditionFailedError, InterruptionError):
                    return False
                return True

            with ThreadPoolExecutor(WRITERS) as pool:
                tries = [pool.submit(write, n, key, condition, barrier) for n in range(WRITERS)]
                winners = sum(one.result() for one in tries)
            if winners > 1:
                return f"{header}: {winners} of {WRITERS} writers won a race"
        return None

    def _put(self, key: str, body: bytes, *, once: bool = False, **arguments: Any) -> str:
        target = {"Bucket": self._bucket, "Key": key, "Body": body}
        put = partial(call, self._client.put_object, self._where, **target, **arguments)
        return str((put() if once else patiently(put, attempts()))["ETag"])

    def _get(self, key: str) -> bytes:
        get = partial(call, self._client.get_object, self._where, Bucket=self._bucket, Key=key)
        return bytes(patiently(get, attempts())["Body"].read())

    def _new_key(self) -> str:
        self._keys.append(f"{self._folder}/{uuid.uuid4().hex}")
        return self._keys[-1]
