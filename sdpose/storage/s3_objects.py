"""Requests for objects below a prefix of a bucket, with retries.

Every object has the SHA-256 of its content as metadata, and a nonce: when the answer to a write is
lost, the nonce tells whether the object that is there now is ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from sdpose.errors import UserError
from sdpose.retry import TransientError
from sdpose.storage.ranged_download import Stream
from sdpose.storage.s3_call import call
from sdpose.storage.s3_client import attempts, encryption, s3_client
from sdpose.storage.s3_errors import Answer, broken
from sdpose.storage.store import ObjectNotFoundError, check_key, retry_transient

DIGEST, NONCE = "sha256", "nonce"


class ChangedError(Exception):
    """The object was replaced during the transfer."""


class S3Objects:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix

    @cached_property
    def client(self) -> Any:
        return s3_client()

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._full(key)}"

    def at(self, key: str) -> dict[str, str]:
        """The arguments of a request that name the object."""
        return {"Bucket": self.bucket, "Key": self._full(key)}

    def new(self, key: str, sha256: str) -> dict[str, Any]:
        """The arguments of a write, without the content."""
        metadata = {DIGEST: sha256, NONCE: uuid.uuid4().hex}
        return {**self.at(key), "Metadata": metadata, **encryption()}

    def ask(self, request: str, where: str, **arguments: Any) -> Answer:
        """Sends a request by its name in boto3, with retries, see `call`."""
        return retry_transient(lambda: call(self.client, request, where, **arguments), attempts())

    def head(self, key: str) -> Answer | None:
        try:
            return self.ask("head_object", self.uri(key), **self.at(key))
        except ObjectNotFoundError:
            return None

    def existing(self, key: str) -> Answer:
        """HEAD of an object. Raises ObjectNotFoundError."""
        head = self.head(key)
        if head is None:
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
        return head

    def ours(self, key: str, nonce: str) -> Answer | None:
        """HEAD of the object that was written with this nonce; None if it is not there now."""
        head = self.head(key)
        return head if head is not None and metadata_of(head).get(NONCE) == nonce else None

    def get(self, key: str) -> tuple[bytes, Answer]:
        """A small object. Raises ObjectNotFoundError."""

        def once() -> tuple[bytes, Answer]:
            answer = call(self.client, "get_object", self.uri(key), **self.at(key))
            return read_body(answer, self.uri(key)), answer

        return retry_transient(once, attempts())

    @contextlib.contextmanager
    def open_range(self, key: str, etag: str, start: int, stop: int) -> Iterator[Stream]:
        """Bytes start..stop-1, without retries.

        Raises:
            ChangedError: the object does not have this ETag any more.
            UserError: the server sends other bytes.
        """
        where = self.uri(key)
        place = self.at(key) | {"Range": f"bytes={start}-{stop - 1}"}
        answer = call(self.client, "get_object", where, **place)
        with contextlib.closing(answer["Body"]) as body:
            if answer["ETag"] != etag:
                raise ChangedError(f"{where} has changed while it was fetched")
            if not is_range(answer, start, stop):
                raise ignores_ranges(where, str(self.client.meta.endpoint_url), answer)
            yield Body(body, where)

    def _full(self, key: str) -> str:
        checked = check_key(key)
        return f"{self.prefix}/{checked}" if self.prefix else checked


def content(data: bytes, digest: bytes | None = None) -> dict[str, Any]:
    """The arguments of a write for its content.

    A bucket with a default retention (Object Lock) requires Content-MD5 for every object and part,
    and every endpoint knows it.

    Args:
        digest: MD5 of the data, if the caller has it.
    """
    return {"Body": data, "ContentMD5": base64.b64encode(digest or md5(data)).decode()}


def md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def metadata_of(answer: Answer) -> dict[str, str]:
    """The metadata of an object, names in lower case: proxies change their case."""
    return {str(name).lower(): value for name, value in answer.get("Metadata", {}).items()}


def digest_in(etag: str) -> str:
    """An ETag without quotes and the weak mark, which proxies add and remove.

    >>> digest_in('W/"0cc1-2"')
    '0cc1-2'
    """
    return etag.removeprefix("W/").strip('"').lower()


def read_body(answer: Answer, where: str) -> bytes:
    """All of it. Raises TransientError."""
    with contextlib.closing(answer["Body"]) as body:
        data = Body(body, where).read(-1)
    if len(data) != answer.get("ContentLength", len(data)):
        raise TransientError(f"{where}: connection closed early")
    return data


def is_range(answer: Answer, start: int, stop: int) -> bool:
    """Whether the body is the requested range: some servers and caches send the whole object."""
    given = answer.get("ContentRange")
    if given is not None:
        return str(given).replace("=", " ").startswith(f"bytes {start}-{stop - 1}/")
    length = answer.get("ContentLength")
    if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:  # a proxy may remove Content-Range
        return length in (None, stop - start)
    return start == 0 and length == stop


def ignores_ranges(where: str, url: str, answer: Answer) -> UserError:
    return UserError(
        f"{where}: {url} does not give the range that was asked for, but "
        f"{answer.get('ContentRange', 'the whole object')}. Let the proxy or cache before the "
        "store pass the header Range, or set AWS_ENDPOINT_URL_S3 to the store itself"
    )


class Body(contextlib.AbstractContextManager[Stream]):
    """botocore's stream; errors of four libraries become ours."""

    def __init__(self, body: Any, where: str) -> None:
        self._body, self._where = body, where

    def read(self, amount: int, /) -> bytes:
        try:
            return bytes(self._body.read() if amount < 0 else self._body.read(amount))
        except Exception as error:
            raise broken(error, self._where) from None

    def __exit__(self, *_: object) -> None:
        self._body.close()
