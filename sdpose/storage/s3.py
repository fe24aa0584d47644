"""A store in an S3 bucket, at AWS or at any endpoint that speaks its language.

Every write carries the SHA-256 of its content, and every read is checked against it. Which
conditional writes the endpoint really honours is probed, see `probe.py`; what it does not guarantee
is refused. Requests and metadata: `s3_objects.py`; configuration: `s3_client.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.storage import probe
from sdpose.storage.partial import partial_file
from sdpose.storage.ranges import fetch_ranges, in_parallel, read_whole
from sdpose.storage.s3_client import (
    ConditionFailedError,
    NotImplementedByServerError,
    attempts,
    call,
    encryption,
    single_writer,
)
from sdpose.storage.s3_objects import DIGEST, NONCE, ChangedError, S3Objects
from sdpose.storage.store import (
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    Tag,
    sha256_of_file,
)

PART_BYTES = 8 << 20  # of an upload; with 8 connections the fastest on loopback
SEGMENT_BYTES = 8 << 20  # of a download: what a kill costs, per connection
TRIES = 3  # with an object whose bytes arrive damaged


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        if not bucket:
            raise UserError("s3:// needs a bucket: s3://BUCKET/PREFIX")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self._objects = S3Objects(self.bucket, self.prefix)

    def __repr__(self) -> str:
        return f"S3Store('s3://{self.bucket}/{self.prefix}')"

    def uri(self, key: str) -> str:
        return self._objects.uri(key)

    def exists(self, key: str) -> bool:
        return self._objects.head(key) is not None

    def list(self, prefix: str) -> Iterator[str]:
        start = f"{self.prefix}/" if self.prefix else ""
        folder = f"{start}{prefix.rstrip('/')}/" if prefix else start
        token: dict[str, str] = {}
        while True:
            page = self._objects.ask(
                "list_objects_v2", folder, Bucket=self.bucket, Prefix=folder, **token
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
                data, answer = self._objects.get(key)
            except ObjectNotFoundError:
                return None
            stored = hashlib.sha256(data).hexdigest()
            if stored == answer["Metadata"].get(DIGEST, stored):
                return data, str(answer["ETag"])
        raise DamagedObjectError(f"{self.uri(key)} is damaged: it has SHA-256 {stored}")

    def put(self, key: str, data: bytes) -> None:
        arguments = self._new(key, data)
        self._objects.ask("put_object", self.uri(key), **arguments)
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
            head = self._objects.head(key)
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
            self._objects.ask("put_object", self.uri(key), **arguments, **condition)
        except ConditionFailedError:
            # Either somebody else was faster, or our own write, whose answer was lost.
            if not self._objects.is_ours(key, nonce):
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
                data, answer = self._objects.get(key)
                if data == written["Body"] or answer["Metadata"].get(NONCE) != nonce:
                    return
                condition = {"IfMatch": answer["ETag"]} if known.swap else {}
                self._objects.ask("put_object", self.uri(key), **written, **condition)
            except ConditionFailedError:
                continue
            except ObjectNotFoundError:
                return
        raise DamagedObjectError(f"{self.uri(key)} arrived damaged, {TRIES} times")

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFoundError):
            self._objects.ask("delete_object", self.uri(key), **self._objects.at(key))

    # ------------------------------------------------------------------------------- large objects

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        head = self._objects.head(key)
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
            arguments = self._objects.new(key, sha256) | {"Body": source.read_bytes()}
            self._objects.ask("put_object", self.uri(key), **arguments)

    def _upload_parts(self, source: Path, key: str, sha256: str) -> None:
        where, size, objects = self.uri(key), source.stat().st_size, self._objects
        arguments = objects.new(key, sha256)
        upload = objects.ask("create_multipart_upload", where, **arguments)
        target = objects.at(key) | {"UploadId": upload["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            with source.open("rb") as file:
                file.seek((number - 1) * PART_BYTES)
                body = file.read(PART_BYTES)
            answer = objects.ask("upload_part", where, **target, PartNumber=number, Body=body)
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            numbers = range(1, -(-size // PART_BYTES) + 1)
            parts = {"Parts": list(in_parallel(send, numbers, threading.Event()))}
            try:
                objects.ask("complete_multipart_upload", where, **target, MultipartUpload=parts)
            except ObjectNotFoundError:  # NoSuchUpload: done already, and the answer was lost
                if not objects.is_ours(key, arguments["Metadata"][NONCE]):
                    raise
        except BaseException:
            with contextlib.suppress(Exception):  # sweep() finds what stays
                call(objects.client.abort_multipart_upload, where, **target)
            raise

    def move(self, key: str, target: str) -> None:
        """The server copies, so the bytes go nowhere."""
        objects = self._objects
        head = objects.head(key)
        if head is None:
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
        source = objects.at(key)
        objects.ask(
            "copy_object",
            self.uri(key),
            **objects.at(target),
            CopySource=source,
            **encryption(),
        )
        copy = objects.head(target)
        if copy is None or copy["ContentLength"] != head["ContentLength"]:
            raise DamagedObjectError(f"{self.uri(key)} was not copied whole to {self.uri(target)}")
        self.delete(key)

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        problem = ""
        for _ in range(TRIES):
            head = self._objects.head(key)
            if head is None:
                raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
            expected = sha256 or head["Metadata"].get(DIGEST)
            digest = hashlib.sha256()
            with partial_file(target) as part:
                try:
                    fetch_ranges(
                        partial(self._objects.open_range, key, head["ETag"]),
                        head["ContentLength"],
                        head["ETag"],
                        part.path,
                        part.state,
                        segment_bytes=SEGMENT_BYTES,
                        attempts=attempts(),
                        digest=digest,
                    )
                except ChangedError:
                    part.discard()
                    problem = "changes again and again"
                    continue
                if expected in (None, digest.hexdigest()):
                    part.finish()
                    return
                part.discard()  # damaged on the way, or in the store: look again
                problem = f"has SHA-256 {digest.hexdigest()}, expected {expected}"
        raise DamagedObjectError(f"{self.uri(key)} {problem}")

    def digest(self, key: str) -> str:
        found = ""
        for _ in range(TRIES):
            head = self._objects.head(key)
            if head is None:
                raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
            digest = hashlib.sha256()
            try:
                for data in read_whole(
                    partial(self._objects.open_range, key, head["ETag"]),
                    head["ContentLength"],
                    segment_bytes=SEGMENT_BYTES,
                    attempts=attempts(),
                ):
                    digest.update(data)
            except ChangedError:
                continue
            before, found = found, digest.hexdigest()
            # Damaged on the way is not damaged in the store.
            if found in (before, head["Metadata"].get(DIGEST, found)):
                return found
        raise DamagedObjectError(f"{self.uri(key)} has other content each time it is read")

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        oldest = datetime.now(UTC) - older_than
        prefix = f"{self.prefix}/" if self.prefix else ""  # not what only begins alike
        where = f"s3://{self.bucket}/{prefix}"
        try:
            answer = self._objects.ask(
                "list_multipart_uploads", where, Bucket=self.bucket, Prefix=prefix
            )
        except NotImplementedByServerError:
            return ()
        left = [u for u in answer.get("Uploads", ()) if u["Initiated"] < oldest]
        if not dry_run:
            for upload in left:
                with contextlib.suppress(ObjectNotFoundError):
                    self._objects.ask(
                        "abort_multipart_upload",
                        where,
                        Bucket=self.bucket,
                        Key=upload["Key"],
                        UploadId=upload["UploadId"],
                    )
        return tuple(str(upload["Key"]) for upload in left)

    # ---------------------------------------------------------------------------------- guarantees

    def room(self) -> int | None:
        """Bytes that the bucket's quota leaves; None if the server tells none (only Ceph does)."""
        answer = self._objects.ask("head_bucket", f"s3://{self.bucket}", Bucket=self.bucket)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        quota = int(headers.get("x-rgw-quota-bucket-size", 0))  # -1 or 0: none
        return max(quota - int(headers["x-rgw-bytes-used"]), 0) if quota > 0 else None

    def capabilities(self) -> Capabilities:
        return self._capabilities

    @cached_property
    def _capabilities(self) -> Capabilities:
        return probe.remembered(self._objects.client, self.bucket, self.prefix)

    def _require(self, what: str) -> None:
        known = self.capabilities()
        if not getattr(known, what):
            reasons = "\n  ".join(known.reasons)
            raise UserError(
                f"s3://{self.bucket} at {self._objects.client.meta.endpoint_url} does not "
                "guarantee that of several writers one wins, so this would not be safe there:\n"
                f"  {reasons}\n  "
                "Use a store that honours If-None-Match and If-Match on writes (AWS S3, MinIO), or "
                "set SDPOSE_S3_SINGLE_WRITER=true if nobody else ever writes there."
            )

    def _new(self, key: str, data: bytes) -> dict[str, Any]:
        """The arguments of a write."""
        return self._objects.new(key, hashlib.sha256(data).hexdigest()) | {"Body": data}
