"""Probes what an S3 endpoint guarantees (conditional writes, checksums), and caches the result.

Some endpoints do not know conditional writes (501), some accept the header and ignore it, some let
several writers of a race win. Their documentation does not say so; a trial shows it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sdpose.cache import cache_dir, read_record, write_record
from sdpose.errors import UserError
from sdpose.locking import file_lock
from sdpose.retry import TransientError
from sdpose.storage.s3_call import call
from sdpose.storage.s3_client import attempts
from sdpose.storage.s3_errors import ConditionFailedError, DamagedUploadError
from sdpose.storage.s3_objects import content, digest_in, md5, read_body
from sdpose.storage.store import (
    Capabilities,
    ObjectNotFoundError,
    StoreUnavailableError,
    retry_transient,
)

EXPIRY = timedelta(days=7)
WRITERS, ROUNDS = 8, 3
FOLDER = ".sdpose-probe"


class Record(BaseModel):
    """The cached result for an endpoint."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    endpoint: str
    bucket: str
    put_if_absent: bool
    swap: bool
    checksums: bool
    etags: bool
    reasons: tuple[str, ...] = Field(strict=False)  # JSON has lists
    probed_at: AwareDatetime = Field(strict=False)

    def capabilities(self) -> Capabilities:
        known = self.model_dump(exclude={"endpoint", "bucket", "probed_at"})
        return Capabilities(**known, probed_at=self.probed_at.isoformat(timespec="seconds"))


def remembered(client: Any, bucket: str, prefix: str) -> Capabilities:
    """What the endpoint guarantees for the bucket: cached, or probed if that is a week old."""
    endpoint = str(client.meta.endpoint_url)
    name = hashlib.sha256(f"{endpoint} {bucket}".encode()).hexdigest()[:32]
    path = cache_dir() / "s3" / f"{name}.json"
    with contextlib.ExitStack() as stack:
        # Whoever else wants to probe it waits here, and finds the result. With a read-only home, or
        # without locks, everyone probes.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(path.with_suffix(".lock")))
        known = _read(path, endpoint, bucket)
        if known is None:
            known = probe(client, bucket, prefix)
            write_record(path, known.model_dump(mode="json"))
        return known.capabilities()


def _read(path: Path, endpoint: str, bucket: str) -> Record | None:
    """The record, if it is valid, of this endpoint, and of the last week."""
    try:
        record = Record.model_validate(read_record(path))
    except ValidationError:
        return None
    age = datetime.now(UTC) - record.probed_at
    right = (record.endpoint, record.bucket) == (endpoint, bucket)
    # Less than 0: the clock was wrong then or is wrong now.
    return record if right and timedelta() <= age <= EXPIRY else None


def probe(client: Any, bucket: str, prefix: str) -> Record:
    """Writes a few small objects below `.sdpose-probe/`, and removes them.

    Raises:
        UserError: the bucket cannot be written at all.
    """
    trial = _Trial(client, bucket, f"{prefix}/{FOLDER}".lstrip("/"))
    try:
        etags = trial.etags()
        reasons = {
            "put_if_absent": trial.put_if_absent(),
            "swap": trial.swap(),
            "checksums": trial.checksums(),
        }
    finally:
        trial.clean()
    return Record(
        endpoint=str(client.meta.endpoint_url),
        bucket=bucket,
        **{what: reason is None for what, reason in reasons.items()},
        etags=etags and not trial.repeats_checksums,
        reasons=tuple(reason for reason in reasons.values() if reason),
        probed_at=datetime.now(UTC).replace(microsecond=0),
    )


class _Trial:
    def __init__(self, client: Any, bucket: str, folder: str) -> None:
        self._client, self._bucket, self._folder = client, bucket, folder
        self._where = f"s3://{bucket}/{folder}"
        self._keys: list[str] = []
        self.repeats_checksums = False  # the ETag is what we said, not what the server computed

    def put_if_absent(self) -> str | None:
        """None if it is guaranteed, else the observation."""
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
        wrong = md5(b"other")

        def refused() -> bool:
            said = {"ContentMD5": base64.b64encode(wrong).decode()}
            try:
                etag = self._put(self._new_key(), b"these", once=True, **said)
            except DamagedUploadError:
                return True
            self.repeats_checksums = digest_in(etag) == wrong.hex()
            return False

        if retry_transient(refused, attempts()):
            return None
        return "Content-MD5: a body that did not fit its checksum was accepted"

    def etags(self) -> bool:
        """Whether the ETag of an object is the MD5 of its bytes."""
        return digest_in(self._put(self._new_key(), b"these")) == md5(b"these").hex()

    def clean(self) -> None:
        for key in self._keys:
            with contextlib.suppress(UserError, TransientError):
                call(self._client, "delete_object", self._where, Bucket=self._bucket, Key=key)

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
        except UserError as error:
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
                except (ConditionFailedError, TransientError):
                    return False
                return True

            with ThreadPoolExecutor(WRITERS) as pool:
                tries = [pool.submit(write, n, key, condition, barrier) for n in range(WRITERS)]
                winners = sum(one.result() for one in tries)
            if winners > 1:
                return f"{header}: {winners} of {WRITERS} writers won a race"
        return None

    def _put(self, key: str, body: bytes, *, once: bool = False, **arguments: Any) -> str:
        arguments = {"Bucket": self._bucket, "Key": key} | content(body) | arguments
        put = partial(call, self._client, "put_object", self._where, **arguments)
        return str((put() if once else retry_transient(put, attempts()))["ETag"])

    def _get(self, key: str) -> bytes:
        place = {"Bucket": self._bucket, "Key": key}

        def get() -> bytes:
            answer = call(self._client, "get_object", self._where, **place)
            return read_body(answer, self._where)

        return retry_transient(get, attempts())

    def _new_key(self) -> str:
        self._keys.append(f"{self._folder}/{uuid.uuid4().hex}")
        return self._keys[-1]
