"""Where COCO can be fetched from: an http(s) mirror, an S3 bucket, a folder.

A source finds files by relative name and reads ranges of them. What may go away by itself (a cut
connection, an overloaded server) is raised as `InterruptionError`, everything else as UserError.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sdpose.errors import UserError, refuse_credentials
from sdpose.storage import ObjectNotFoundError, s3_client
from sdpose.storage.patience import InterruptionError
from sdpose.storage.ranges import Stream
from sdpose.storage.s3_call import call
from sdpose.storage.s3_objects import Body, ignores_ranges, is_range

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    name: str  # relative to the source
    size: int | None  # bytes; None if the server does not say
    tag: str  # changes with the content, as far as the server tells
    ranges: bool  # parts can be read


class Source(Protocol):
    def find(self, name: str) -> RemoteFile | None:
        """None if there is no such file."""

    def open(
        self, file: RemoteFile, start: int, stop: int | None
    ) -> AbstractContextManager[Stream]:
        """Bytes start..stop-1 (None: to the end; 0 and None if `file.ranges` is False)."""


def open_source(where: str) -> Source:
    """http(s)://host/path, s3://bucket/prefix, or a folder (a path or file://)."""
    parts = urllib.parse.urlsplit(refuse_credentials(where))
    if parts.scheme in ("http", "https"):
        return HttpSource(where)
    if parts.scheme == "s3":
        return S3Source(parts.netloc, parts.path.strip("/"))
    if parts.scheme not in ("", "file"):
        raise UserError(
            f"cannot fetch from '{where}': give http(s)://, s3://bucket/prefix, a folder"
        )
    folder = Path(urllib.parse.unquote(parts.path) if parts.scheme else where)
    if not folder.is_dir():
        raise UserError(f"cannot fetch from '{where}': no such folder")
    return FolderSource(folder)


class HttpSource:
    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/") + "/"

    def find(self, name: str) -> RemoteFile | None:
        # Not every server answers HEAD; the first byte tells size and whether ranges work.
        try:
            with self._request(name, "bytes=0-0") as answer:
                headers, status = answer.headers, answer.status
        except _NotFoundError:
            return None
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        if status == 206:
            total = headers.get("Content-Range", "").rpartition("/")[2]
            return RemoteFile(name, int(total) if total.isdigit() else None, tag, total.isdigit())
        length = headers.get("Content-Length")
        return RemoteFile(name, int(length) if length else None, tag, ranges=False)

    def open(
        self, file: RemoteFile, start: int, stop: int | None
    ) -> AbstractContextManager[Stream]:
        try:
            answer = self._request(
                file.name, f"bytes={start}-{stop - 1}" if stop is not None else None
            )
        except _NotFoundError:
            raise UserError(f"{self.base}{file.name} has gone while it was fetched") from None
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if tag != file.tag or (stop is not None and answer.status != 206):
            answer.close()
            raise UserError(f"{self.base}{file.name} changed while it was fetched; start again")
        return _HttpStream(answer)

    def _request(self, name: str, byte_range: str | None) -> Any:
        url = self.base + urllib.parse.quote(name)
        headers = {"User-Agent": "sdpose", "Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = byte_range
        try:
            return urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
            )
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise _NotFoundError from None
            if error.code in (408, 425, 429) or error.code >= 500:
                raise InterruptionError(f"{url}: HTTP {error.code} {error.reason}") from None
            raise UserError(f"{url}: HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise InterruptionError(f"{url}: {reason}") from None


class _NotFoundError(Exception):
    pass


class _HttpStream(AbstractContextManager[Stream]):
    """Read errors become `InterruptionError`."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, amount: int, /) -> bytes:
        try:
            return self._answer.read(amount)
        except (OSError, http.client.HTTPException) as error:
            raise InterruptionError(f"{self._answer.url}: {error}") from None

    def __exit__(self, *_: object) -> None:
        self._answer.close()


class S3Source:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.client = s3_client()

    def find(self, name: str) -> RemoteFile | None:
        answer = self._call("head_object", name)
        if answer is None:
            return None
        return RemoteFile(name, answer["ContentLength"], answer["ETag"], ranges=True)

    def open(
        self, file: RemoteFile, start: int, stop: int | None
    ) -> AbstractContextManager[Stream]:
        byte_range = {"Range": f"bytes={start}-{stop - 1}"} if stop is not None else {}
        answer = self._call("get_object", file.name, **byte_range)
        where = self._uri(file.name)
        if answer is None or answer["ETag"] != file.tag:
            raise UserError(f"{where} changed; start again")
        body = Body(answer["Body"], where)
        if stop is not None and not is_range(answer, start, stop):
            with body:
                raise ignores_ranges(where, str(self.client.meta.endpoint_url), answer)
        return body

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _uri(self, name: str) -> str:
        return f"s3://{self.bucket}/{self._key(name)}"

    def _call(self, request: str, name: str, **arguments: Any) -> Any:
        place = {"Bucket": self.bucket, "Key": self._key(name)}
        try:
            return call(self.client, request, self._uri(name), **place, **arguments)
        except ObjectNotFoundError:
            return None


class FolderSource:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> RemoteFile | None:
        path = self.folder / name
        if not path.is_file():
            return None
        status = path.stat()
        return RemoteFile(name, status.st_size, str(status.st_mtime_ns), ranges=True)

    def open(
        self, file: RemoteFile, start: int, stop: int | None
    ) -> AbstractContextManager[Stream]:
        stream = (self.folder / file.name).open("rb")
        stream.seek(start)
        return stream
