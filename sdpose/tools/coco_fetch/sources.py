"""Sources of COCO: an http(s) mirror, an S3 bucket, a folder.

A source finds files by relative name and reads ranges of them. It raises `TransientError` for what
a retry may solve (a lost connection, an overloaded server), and UserError for everything else.
"""

from __future__ import annotations

import http.client
import logging
import re
import urllib.error
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sdpose.errors import UserError, refuse_credentials
from sdpose.retry import TransientError
from sdpose.storage import ObjectNotFoundError, S3Address, parse_address, s3_client
from sdpose.storage.ranged_download import Stream
from sdpose.storage.s3_call import call
from sdpose.storage.s3_objects import Body, ignores_ranges, is_range

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 30
OFFICIAL_HOST = "images.cocodataset.org"  # and the name of the bucket behind it


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
    if re.match(r"https?://", where.strip(), re.IGNORECASE):
        return HttpSource(refuse_credentials(where.strip()))
    try:
        address = parse_address(where)
    except UserError as error:
        raise UserError(f"cannot fetch from there: {error}; or http(s)://host/folder") from None
    if isinstance(address, S3Address):
        return S3Source(address.bucket, address.prefix)
    if not address.is_dir():
        raise UserError(f"cannot fetch from '{where}': no such folder")
    return FolderSource(address)


def is_official(source: Source) -> bool:
    """COCO's own server, or the bucket behind it."""
    if isinstance(source, HttpSource):
        return (urllib.parse.urlsplit(source.base).hostname or "").rstrip(".") == OFFICIAL_HOST
    return isinstance(source, S3Source) and source.bucket == OFFICIAL_HOST


class HttpSource:
    def __init__(self, base: str) -> None:
        if "?" in base or "#" in base:
            raise UserError(
                f"cannot fetch from '{base}': a mirror's address has no '?' and no '#'; files are "
                "asked for below it (write %23 for a '#' in a folder's name)"
            )
        self.base = base.rstrip("/") + "/"
        self._opener = urllib.request.build_opener(_Redirects())

    def find(self, name: str) -> RemoteFile | None:
        # Not every server answers HEAD; the first byte tells size and whether ranges work.
        try:
            with self._request(name, "bytes=0-0") as answer:
                headers, status = answer.headers, answer.status
        except _NotFoundError:
            return None
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        if status == 206:
            total = _count(headers.get("Content-Range", "").rpartition("/")[2])
            return RemoteFile(name, total, tag, ranges=total is not None)
        return RemoteFile(name, _count(headers.get("Content-Length", "")), tag, ranges=False)

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
        extent = answer.headers.get("Content-Range", "")
        if stop is not None and not re.match(rf"bytes {start}-\d", extent, re.ASCII):
            answer.close()
            raise UserError(
                f"{self.base}{file.name}: the server was asked for the bytes from {start} on and "
                f"answered {extent[:40]!r}: take another mirror"
            )
        return _HttpStream(answer)

    def _request(self, name: str, byte_range: str | None) -> Any:
        url = self.base + urllib.parse.quote(name)
        headers = {"User-Agent": "sdpose", "Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = byte_range
        try:
            return self._opener.open(
                urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
            )
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise _NotFoundError from None
            if error.code in (408, 425, 429) or error.code >= 500:
                raise TransientError(f"{url}: HTTP {error.code} {error.reason}") from None
            raise UserError(f"{url}: HTTP {error.code} {error.reason}") from None
        except (ValueError, http.client.InvalidURL) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{url}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise TransientError(f"{url}: {reason}") from None


class _NotFoundError(Exception):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http, where anybody in between can change data."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if before.scheme == "https" and after.scheme != "https":
            fp.close()
            raise UserError(
                f"{req.full_url} redirects to {after.scheme}://{after.netloc}, where anybody on "
                "the way can change what is sent: refused; take another mirror"
            )
        if before.netloc != after.netloc and after.netloc not in self._said:
            self._said.add(after.netloc)
            log.info(f"{before.netloc} redirects to {after.netloc}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _count(text: str) -> int | None:
    """The number of bytes in a header; None if it is not a number (`isdigit` accepts '²')."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


class _HttpStream(AbstractContextManager[Stream]):
    """Read errors become `TransientError`."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, amount: int, /) -> bytes:
        try:
            return self._answer.read(amount)
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"{self._answer.url}: {error}") from None

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
