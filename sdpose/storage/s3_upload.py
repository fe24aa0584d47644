"""Uploads of files, in parallel parts if they are large; the bytes that are sent are hashed.

Not s3transfer's: it sends no Content-MD5 (which Object Lock requires), returns no ETag, and gives
up the whole upload when one part is damaged in transit (docs/log.md, 2026-11-30).
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.storage.ranged_download import in_parallel
from sdpose.storage.s3_call import call
from sdpose.storage.s3_objects import NONCE, S3Objects, content, digest_in, md5
from sdpose.storage.store import DamagedObjectError, ObjectNotFoundError


@dataclass(frozen=True)
class Sent:
    """The ETag of what arrived, and the one to expect if the server's ETags are MD5s."""

    etag: str
    expected: str

    @property
    def arrived(self) -> bool:
        return self.etag == self.expected


class Fingerprint:
    """SHA-256 of some bytes, and the ETag that S3 gives them if they are sent in these parts."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._parts: list[bytes] = []

    def add(self, part: bytes, digest: bytes) -> None:
        """digest: MD5 of the part."""
        self._sha256.update(part)
        self._parts.append(digest)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def etag(self, *, whole: bool) -> str:
        """whole: sent with one PUT, in a single part."""
        if whole:
            return self._parts[0].hex()
        return f"{md5(b''.join(self._parts)).hex()}-{len(self._parts)}"


def fingerprint(source: Path, part_bytes: int) -> tuple[str, str]:
    """SHA-256 and ETag of a file as `upload` sends it."""
    found, whole = Fingerprint(), source.stat().st_size <= part_bytes
    for part in _parts(source, part_bytes):
        found.add(part, md5(part))
    return found.sha256, found.etag(whole=whole)


def upload(objects: S3Objects, source: Path, key: str, sha256: str, part_bytes: int) -> Sent:
    """Uploads a file; several requests at once if it has more than `part_bytes`.

    Raises:
        DamagedObjectError: the file has another SHA-256; nothing was stored.
    """
    if source.stat().st_size > part_bytes:
        return _upload_parts(objects, source, key, sha256, part_bytes)
    data = source.read_bytes()
    _check(source, hashlib.sha256(data).hexdigest(), sha256)
    digest = md5(data)
    arguments = objects.new(key, sha256) | content(data, digest)
    answer = objects.ask("put_object", objects.uri(key), **arguments)
    return Sent(digest_in(answer["ETag"]), digest.hex())


def _upload_parts(objects: S3Objects, source: Path, key: str, sha256: str, part_bytes: int) -> Sent:
    where, arguments = objects.uri(key), objects.new(key, sha256)
    begun = objects.ask("create_multipart_upload", where, **arguments)
    target = objects.at(key) | {"UploadId": begun["UploadId"]}

    def send(number: int) -> tuple[bytes, bytes, str]:
        with source.open("rb") as file:
            file.seek((number - 1) * part_bytes)
            data = file.read(part_bytes)
        digest = md5(data)
        part = content(data, digest)
        answer = objects.ask("upload_part", where, **target, PartNumber=number, **part)
        return data, digest, answer["ETag"]

    try:
        found, parts = Fingerprint(), list[dict[str, Any]]()
        numbers = range(1, -(-source.stat().st_size // part_bytes) + 1)
        for number, (data, digest, etag) in zip(
            numbers, in_parallel(send, numbers, threading.Event()), strict=True
        ):
            found.add(data, digest)
            parts.append({"ETag": etag, "PartNumber": number})
        _check(source, found.sha256, sha256)
        etag = _complete(objects, key, target, parts, arguments["Metadata"][NONCE])
    except BaseException:
        with contextlib.suppress(Exception):  # sweep() removes what stays
            call(objects.client, "abort_multipart_upload", where, **target)
        raise
    return Sent(digest_in(etag), found.etag(whole=False))


def _complete(
    objects: S3Objects, key: str, target: dict[str, str], parts: list[dict[str, Any]], nonce: str
) -> str:
    """The ETag of the object."""
    where, complete = objects.uri(key), {"Parts": parts}
    try:
        answer = objects.ask("complete_multipart_upload", where, **target, MultipartUpload=complete)
    except ObjectNotFoundError:  # NoSuchUpload: done already, and the answer was lost
        if (ours := objects.ours(key, nonce)) is None:
            raise
        answer = ours
    return str(answer["ETag"])


def _parts(source: Path, part_bytes: int) -> Iterator[bytes]:
    """An empty file is one empty part."""
    with source.open("rb") as file:
        part = file.read(part_bytes)
        yield part
        while part := file.read(part_bytes):
            yield part


def _check(source: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DamagedObjectError(
            f"{source} has SHA-256 {found}, expected {expected}: it changed while it was copied"
        )
