"""A store in an S3 bucket, at AWS or at any endpoint that speaks its language.

Every write carries the SHA-256 of its content, and every read is checked against it. Conditional
writes that the endpoint does not guarantee (`s3_capabilities.py` tries them) are refused. Requests
and metadata: `s3_objects.py`; listings: `s3_listing.py`; uploads of files: `s3_upload.py`; what an
answer means: `s3_call.py`; configuration: `s3_client.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.storage import s3_capabilities, s3_listing
from sdpose.storage.partial_download import partial_file
from sdpose.storage.ranged_download import fetch_ranges, read_whole
from sdpose.storage.s3_client import attempts, encryption, single_writer
from sdpose.storage.s3_errors import ConditionFailedError, NotImplementedByServerError
from sdpose.storage.s3_objects import (
    DIGEST,
    NONCE,
    ChangedError,
    S3Objects,
    content,
    digest_in,
    md5,
    metadata_of,
)
from sdpose.storage.s3_upload import Sent, fingerprint, upload
from sdpose.storage.store import Capabilities, DamagedObjectError, ObjectNotFoundError, Tag

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
        for full in s3_listing.keys(self._objects, folder):
            key = full.removeprefix(start)
            if not any(part.startswith(".") or not part for part in key.split("/")):
                yield key

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
            if stored == metadata_of(answer).get(DIGEST, stored):
                return data, str(answer["ETag"])
        raise DamagedObjectError(f"{self.uri(key)} is damaged: it has SHA-256 {stored}")

    def put(self, key: str, data: bytes) -> None:
        arguments = self._new(key, data)
        answer = self._objects.ask("put_object", self.uri(key), **arguments)
        self._make_sure(key, arguments, answer["ETag"])

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
            answer = self._objects.ask("put_object", self.uri(key), **arguments, **condition)
        except ConditionFailedError:
            # Another writer was faster, or it is our own write, whose answer was lost.
            ours = self._objects.ours(key, nonce)
            if ours is None:
                return False
            answer = ours
        except ObjectNotFoundError:  # there is nothing to match
            return False
        self._make_sure(key, arguments, answer["ETag"])
        return True

    def _make_sure(self, key: str, written: dict[str, Any], etag: str) -> None:
        """Reads the object back unless the server has verified it, and rewrites a damaged one."""
        if self._is_verified(Sent(digest_in(etag), md5(written["Body"]).hex())):
            return
        known, nonce = self.capabilities(), written["Metadata"][NONCE]
        for _ in range(TRIES):
            try:
                data, answer = self._objects.get(key)
                if data == written["Body"] or metadata_of(answer).get(NONCE) != nonce:
                    return
                condition = {"IfMatch": answer["ETag"]} if known.swap else {}
                self._objects.ask("put_object", self.uri(key), **written, **condition)
            except ConditionFailedError:
                continue
            except ObjectNotFoundError:
                return
        raise DamagedObjectError(f"{self.uri(key)} arrived damaged, {TRIES} times")

    def _is_verified(self, sent: Sent) -> bool:
        """Whether the server has verified the bytes that arrived, or its ETag proves them."""
        known = self.capabilities()
        return known.checksums or (known.etags and sent.arrived)

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFoundError):
            self._objects.ask("delete_object", self.uri(key), **self._objects.at(key))

    # ------------------------------------------------------------------------------- large objects

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        if self._holds(source, key, sha256):
            return
        for _ in range(TRIES):
            with contextlib.suppress(ObjectNotFoundError):  # the upload is gone: start again
                sent = upload(self._objects, source, key, sha256, PART_BYTES)
                if self._is_verified(sent) or self.digest(key) == sha256:
                    return
        # The damaged object stays: another writer may have replaced it already.
        raise DamagedObjectError(f"{source} arrived damaged at {self.uri(key)}, {TRIES} times")

    def _holds(self, source: Path, key: str, sha256: str) -> bool:
        """Whether the object has these bytes.

        It is read only if size and metadata agree and no ETag proves it.
        """
        head = self._objects.head(key)
        if head is None or head["ContentLength"] != source.stat().st_size:
            return False
        if metadata_of(head).get(DIGEST, sha256) != sha256:
            return False
        if self.capabilities().etags:
            found, etag = fingerprint(source, PART_BYTES)
            if found == sha256 and etag == digest_in(head["ETag"]):
                return True
        return self.digest(key) == sha256

    def move(self, key: str, target: str) -> None:
        """A copy by the server: no byte is transferred."""
        objects = self._objects
        head = objects.existing(key)
        place = objects.at(target) | {"CopySource": objects.at(key)}
        objects.ask("copy_object", self.uri(key), **place, **encryption())
        copy = objects.head(target)
        if copy is None or copy["ContentLength"] != head["ContentLength"]:
            raise DamagedObjectError(f"{self.uri(key)} was not copied whole to {self.uri(target)}")
        self.delete(key)

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        problem = ""
        for _ in range(TRIES):
            head = self._objects.existing(key)
            expected = sha256 or metadata_of(head).get(DIGEST)
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
                part.discard()  # damaged in transit or in the store: try again
                problem = f"has SHA-256 {digest.hexdigest()}, expected {expected}"
        raise DamagedObjectError(f"{self.uri(key)} {problem}")

    def digest(self, key: str) -> str:
        found = ""
        for _ in range(TRIES):
            head = self._objects.existing(key)
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
            # A digest that comes twice was not damaged in transit.
            if found in (before, metadata_of(head).get(DIGEST, found)):
                return found
        raise DamagedObjectError(f"{self.uri(key)} has other content each time it is read")

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        oldest = datetime.now(UTC) - older_than
        prefix = f"{self.prefix}/" if self.prefix else ""  # not a sibling that begins alike
        try:
            begun = s3_listing.unfinished_uploads(self._objects, prefix)
        except NotImplementedByServerError:
            return ()
        left = [u for u in begun if _in_utc(u["Initiated"]) < oldest]
        if not dry_run:
            for one in left:
                with contextlib.suppress(ObjectNotFoundError):
                    self._objects.ask(
                        "abort_multipart_upload",
                        f"s3://{self.bucket}/{one['Key']}",
                        Bucket=self.bucket,
                        Key=one["Key"],
                        UploadId=one["UploadId"],
                    )
        return tuple(str(one["Key"]) for one in left)

    # ---------------------------------------------------------------------------------- guarantees

    def room(self) -> int | None:
        """Bytes left in the bucket's quota; None if unknown (only Ceph reports it)."""
        answer = self._objects.ask("head_bucket", f"s3://{self.bucket}", Bucket=self.bucket)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        quota = int(headers.get("x-rgw-quota-bucket-size", 0))  # -1 or 0: none
        return max(quota - int(headers["x-rgw-bytes-used"]), 0) if quota > 0 else None

    def capabilities(self) -> Capabilities:
        return self._capabilities

    @cached_property
    def _capabilities(self) -> Capabilities:
        return s3_capabilities.remembered(self._objects.client, self.bucket, self.prefix)

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
        return self._objects.new(key, hashlib.sha256(data).hexdigest()) | content(data)


def _in_utc(time: datetime) -> datetime:
    """Not every server names its time zone."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
