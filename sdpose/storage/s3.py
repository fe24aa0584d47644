"""A store in an S3 bucket, at AWS or at any endpoint that speaks its language.

Every write carries the SHA-256 of its content as metadata, and a nonce: when an answer is lost, the
nonce tells whether the object that is there now is ours. Every read is checked against the digest.
Which conditional writes the endpoint really honours is probed, see `probe.py`; what it does not
guarantee is refused. Configuration: `s3_client.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.storage import probe
from sdpose.storage.partial import partial_file
from sdpose.storage.patience import InterruptionError, patiently
from sdpose.storage.ranges import Stream, fetch_ranges, in_parallel
from sdpose.storage.s3_client import (
    ConditionFailedError,
    NotImplementedByServerError,
    attempts,
    broken,
    call,
    encryption,
    s3_client,
    single_writer,
)
from sdpose.storage.store import (
    CHUNK_BYTES,
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    Tag,
    check_key,
    sha256_of_file,
)

PART_BYTES = 8 << 20  # of an upload; with 8 connections the fastest on loopback
SEGMENT_BYTES = 8 << 20  # of a download, fetched anew after a kill
TRIES = 3  # with an object whose bytes arrive damaged
DIGEST, NONCE = "sha256", "nonce"


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        if not bucket:
            raise UserError("s3:// needs a bucket: s3://BUCKET/PREFIX")
        self.bucket, self.prefix = bucket, prefix.strip("/")

    def __repr__(self) -> str:
        return f"S3Store('s3://{self.bucket}/{self.prefix}')"

    @cached_property
    def _client(self) -> Any:
        return s3_client()

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def list(self, prefix: str) -> Iterator[str]:
        start = f"{self.prefix}/" if self.prefix else ""
        folder = f"{start}{prefix.rstrip('/')}/" if prefix else start
        token: dict[str, str] = {}
        while True:
            page = self._patiently(
                self._client.list_objects_v2, folder, Bucket=self.bucket, Prefix=folder, **token
            )
            for entry in page.get("Contents", ()):
                key = str(entry["Key"]).removeprefix(start)
                if not any(part.startswith(".") or not part for part in key.split("/")):
                    yield key
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    # ------------------------------------------------------------------------------- small objects

    def read(self, key: str) -> bytes:
        found = self.read_tagged(key)
        if found is None:
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
        return found[0]

    def read_tagged(self, key: str) -> tuple[bytes, Tag] | None:
        stored = ""
        for _ in range(TRIES):
            try:
                data, answer = patiently(lambda: self._get(key), attempts())
            except ObjectNotFoundError:
                return None
            stored = hashlib.sha256(data).hexdigest()
            if stored == answer["Metadata"].get(DIGEST, stored):
                return data, str(answer["ETag"])
        raise DamagedObjectError(f"{self.uri(key)} is damaged: it has SHA-256 {stored}")

    def put(self, key: str, data: bytes) -> None:
        arguments = self._new(key, data)
        self._patiently(self._client.put_object, self.uri(key), **arguments)
        self._mend(key, arguments)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if single_writer():
            if self.exists(key):
                return False
            self.put(key, data)
            return True
        self._require("put_if_absent")
        return self._conditional_put(key, data, IfNoneMatch="*")

    def swap(self, key: str, data: bytes, expected: Tag) -> bool:
        if single_writer():
            head = self._head(key)
            if head is None or head["ETag"] != expected:
                return False
            self.put(key, data)
            return True
        self._require("swap")
        return self._conditional_put(key, data, IfMatch=expected)

    def _conditional_put(self, key: str, data: bytes, **condition: str) -> bool:
        arguments = self._new(key, data)
        nonce = arguments["Metadata"][NONCE]
        try:
            self._patiently(self._client.put_object, self.uri(key), **arguments, **condition)
        except ConditionFailedError:
            # Either somebody else was faster, or our own write, whose answer was lost.
            if not self._is_ours(key, nonce):
                return False
        except ObjectNotFoundError:  # there is nothing to match
            return False
        self._mend(key, arguments)
        return True

    def _mend(self, key: str, written: dict[str, Any]) -> None:
        """Reads back what was written if the server takes any bytes, and writes it again while it
        is damaged and still ours."""
        known, nonce = self.capabilities(), written["Metadata"][NONCE]
        if known.checksums:
            return
        for _ in range(TRIES):
            try:
                data, answer = patiently(lambda: self._get(key), attempts())
                if data == written["Body"] or answer["Metadata"].get(NONCE) != nonce:
                    return
                condition = {"IfMatch": answer["ETag"]} if known.swap else {}
                self._patiently(self._client.put_object, self.uri(key), **written, **condition)
            except ConditionFailedError:
                continue
            except ObjectNotFoundError:
                return
        raise DamagedObjectError(f"{self.uri(key)} arrived damaged, {TRIES} times")

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFoundError):
            self._patiently(
                self._client.delete_object,
                self.uri(key),
                Bucket=self.bucket,
                Key=self._key(key),
            )

    # ------------------------------------------------------------------------------- large objects

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        head = self._head(key)
        if (
            head is not None
            and head["ContentLength"] == source.stat().st_size
            and self.digest(key) == sha256
        ):
            return
        for _ in range(TRIES):
            with contextlib.suppress(ObjectNotFoundError):  # the upload itself: begin another one
                self._upload(source, key, sha256)
                if (stored := self.digest(key)) == sha256:
                    return
            if (stored := sha256_of_file(source)) != sha256:
                break
        # What is there now fits nothing; it is not deleted, for somebody else may have mended it.
        raise DamagedObjectError(
            f"{source} has SHA-256 {stored}, expected {sha256}: it changed while it was copied"
            if stored != sha256
            else f"{source} arrived damaged at {self.uri(key)}, {TRIES} times"
        )

    def _upload(self, source: Path, key: str, sha256: str) -> None:
        if source.stat().st_size > PART_BYTES:
            self._upload_parts(source, key, sha256)
        else:
            arguments = self._new(key, source.read_bytes(), sha256)
            self._patiently(self._client.put_object, self.uri(key), **arguments)

    def _upload_parts(self, source: Path, key: str, sha256: str) -> None:
        where, size = self.uri(key), source.stat().st_size
        target = {"Bucket": self.bucket, "Key": self._key(key)}
        metadata = {DIGEST: sha256, NONCE: uuid.uuid4().hex}
        upload = self._patiently(
            self._client.create_multipart_upload, where, **target, Metadata=metadata, **encryption()
        )
        target["UploadId"] = upload["UploadId"]
        etags: dict[int, str] = {}

        def send(number: int) -> None:
            with source.open("rb") as file:
                file.seek((number - 1) * PART_BYTES)
                body = file.read(PART_BYTES)
            answer = self._patiently(
                self._client.upload_part, where, **target, PartNumber=number, Body=body
            )
            etags[number] = answer["ETag"]

        numbers = range(1, -(-size // PART_BYTES) + 1)
        try:
            for _ in in_parallel(send, numbers, threading.Event()):
                pass
            parts = [{"ETag": etags[number], "PartNumber": number} for number in numbers]
            try:
                self._patiently(
                    self._client.complete_multipart_upload,
                    where,
                    **target,
                    MultipartUpload={"Parts": parts},
                )
            except ObjectNotFoundError:  # NoSuchUpload: done already, and the answer was lost
                if not self._is_ours(key, metadata[NONCE]):
                    raise
        except BaseException:
            with contextlib.suppress(Exception):  # sweep() finds what stays
                call(self._client.abort_multipart_upload, where, **target)
            raise

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        problem = ""
        for _ in range(TRIES):
            head = self._head(key)
            if head is None:
                raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
            expected = sha256 or head["Metadata"].get(DIGEST)
            digest = hashlib.sha256()
            with partial_file(target) as part:
                try:
                    fetch_ranges(
                        partial(self._open_range, key, head["ETag"]),
                        head["ContentLength"],
                        head["ETag"],
                        part.path,
                        part.state,
                        segment_bytes=SEGMENT_BYTES,
                        attempts=attempts(),
                        digest=digest,
                    )
                except _ChangedError:
                    part.discard()
                    problem = "changes again and again"
                    continue
                if expected in (None, digest.hexdigest()):
                    part.finish()
                    return
                part.discard()  # damaged on the way, or in the store: look again
                problem = f"has SHA-256 {digest.hexdigest()}, expected {expected}"
        raise DamagedObjectError(f"{self.uri(key)} {problem}")

    @contextlib.contextmanager
    def _open_range(self, key: str, etag: str, start: int, stop: int) -> Iterator[Stream]:
        answer = call(
            self._client.get_object,
            self.uri(key),
            Bucket=self.bucket,
            Key=self._key(key),
            Range=f"bytes={start}-{stop - 1}",
        )
        if answer["ETag"] != etag:
            raise _ChangedError(f"{self.uri(key)} has changed while it was fetched")
        with contextlib.closing(answer["Body"]) as body:
            yield _Body(body, self.uri(key))

    def digest(self, key: str) -> str:
        def once() -> str:
            digest = hashlib.sha256()
            answer = self._open(key)
            with contextlib.closing(answer["Body"]) as body:
                stream, left = _Body(body, self.uri(key)), int(answer["ContentLength"])
                while left:
                    chunk = stream.read(min(CHUNK_BYTES, left))
                    if not chunk:
                        raise InterruptionError(f"{self.uri(key)}: connection closed early")
                    digest.update(chunk)
                    left -= len(chunk)
            return digest.hexdigest()

        found = patiently(once, attempts())
        head = self._head(key)
        recorded = head["Metadata"].get(DIGEST) if head else None
        # Damaged on the way is not damaged in the store.
        return found if recorded in (None, found) else patiently(once, attempts())

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        oldest = datetime.now(UTC) - older_than
        prefix = f"{self.prefix}/" if self.prefix else ""  # not what only begins alike
        where = f"s3://{self.bucket}/{prefix}"
        try:
            answer = self._patiently(
                self._client.list_multipart_uploads, where, Bucket=self.bucket, Prefix=prefix
            )
        except NotImplementedByServerError:
            return ()
        left = [u for u in answer.get("Uploads", ()) if u["Initiated"] < oldest]
        if not dry_run:
            for upload in left:
                with contextlib.suppress(ObjectNotFoundError):
                    self._patiently(
                        self._client.abort_multipart_upload,
                        where,
                        Bucket=self.bucket,
                        Key=upload["Key"],
                        UploadId=upload["UploadId"],
                    )
        return tuple(str(upload["Key"]) for upload in left)

    # ---------------------------------------------------------------------------------- guarantees

    def room(self) -> int | None:
        """Bytes that the bucket's quota leaves; None if the server tells none (only Ceph does)."""
        answer = self._patiently(
            self._client.head_bucket, f"s3://{self.bucket}", Bucket=self.bucket
        )
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        quota = int(headers.get("x-rgw-quota-bucket-size", 0))  # -1 or 0: none
        return max(quota - int(headers["x-rgw-bytes-used"]), 0) if quota > 0 else None

    def capabilities(self) -> Capabilities:
        return self._capabilities

    @cached_property
    def _capabilities(self) -> Capabilities:
        return probe.remembered(self._client, self.bucket, self.prefix)

    def _require(self, what: str) -> None:
        known = self.capabilities()
        if not getattr(known, what):
            reasons = "\n  ".join(known.reasons)
            raise UserError(
                f"s3://{self.bucket} at {self._client.meta.endpoint_url} does not guarantee that "
                f"of several writers one wins, so this would not be safe there:\n  {reasons}\n  "
                "Use a store that honours If-None-Match and If-Match on writes (AWS S3, MinIO), or "
                "set SDPOSE_S3_SINGLE_WRITER=true if nobody else ever writes there."
            )

    # ------------------------------------------------------------------------------------- requests

    def _key(self, key: str) -> str:
        checked = check_key(key)
        return f"{self.prefix}/{checked}" if self.prefix else checked

    def _new(self, key: str, data: bytes, sha256: str | None = None) -> dict[str, Any]:
        """The arguments of a write."""
        metadata = {
            DIGEST: sha256 or hashlib.sha256(data).hexdigest(),
            NONCE: uuid.uuid4().hex,
        }
        return {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "Body": data,
            "Metadata": metadata,
            **encryption(),
        }

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            answer = self._patiently(
                self._client.head_object, self.uri(key), Bucket=self.bucket, Key=self._key(key)
            )
        except ObjectNotFoundError:
            return None
        return dict(answer)

    def _is_ours(self, key: str, nonce: str) -> bool:
        head = self._head(key)
        return head is not None and head["Metadata"].get(NONCE) == nonce

    def _open(self, key: str) -> dict[str, Any]:
        answer = call(
            self._client.get_object, self.uri(key), Bucket=self.bucket, Key=self._key(key)
        )
        return dict(answer)

    def _get(self, key: str) -> tuple[bytes, dict[str, Any]]:
        answer = self._open(key)
        with contextlib.closing(answer["Body"]) as body:
            data = _Body(body, self.uri(key)).read(-1)
        if len(data) != answer["ContentLength"]:
            raise InterruptionError(f"{self.uri(key)}: connection closed early")
        return data, answer

    def _patiently(self, operation: Callable[..., Any], where: str, **arguments: Any) -> Any:
        return patiently(lambda: call(operation, where, **arguments), attempts())


class _ChangedError(Exception):
    """The object is another one than when the transfer began."""


class _Body:
    """botocore's stream, whose errors are of four libraries."""

    def __init__(self, body: Any, where: str) -> None:
        self._body, self._where = body, where

    def read(self, amount: int, /) -> bytes:
        try:
            return bytes(self._body.read() if amount < 0 else self._body.read(amount))
        except Exception as error:
            raise broken(error, self._where) from None
