"""Requests about objects below a prefix of a bucket, tried again while that may help.

Every object has the SHA-256 of its content as metadata, and a nonce: when the answer to a write is
lost, the nonce tells whether the object that is there now is ours.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from sdpose.storage.patience import InterruptionError, patiently
from sdpose.storage.ranges import Stream
from sdpose.storage.s3_client import attempts, broken, call, encryption, s3_client
from sdpose.storage.store import ObjectNotFoundError, check_key

DIGEST, NONCE = "sha256", "nonce"

Answer = dict[str, Any]


class ChangedError(Exception):
    """The object is another one than when the transfer began."""


class S3Objects:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix

    @cached_property
    def client(self) -> Any:
        return s3_client()

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._full(key)}"

    def at(self, key: str) -> dict[str, str]:
        """The arguments of a request that say which object."""
        return {"Bucket": self.bucket, "Key": self._full(key)}

    def new(self, key: str, sha256: str) -> dict[str, Any]:
        """The arguments of a write, less the content."""
        metadata = {DIGEST: sha256, NONCE: uuid.uuid4().hex}
        return {**self.at(key), "Metadata": metadata, **encryption()}

    def ask(self, request: str, where: str, **arguments: Any) -> Answer:
        """The answer to a request by its name in boto3; `where` is what messages name."""
        operation = getattr(self.client, request)
        return dict(patiently(lambda: call(operation, where, **arguments), attempts()))

    def head(self, key: str) -> Answer | None:
        try:
            return self.ask("head_object", self.uri(key), **self.at(key))
        except ObjectNotFoundError:
            return None

    def is_ours(self, key: str, nonce: str) -> bool:
        head = self.head(key)
        return head is not None and head["Metadata"].get(NONCE) == nonce

    def get(self, key: str) -> tuple[bytes, Answer]:
        """A small object. Raises ObjectNotFoundError."""

        def once() -> tuple[bytes, Answer]:
            answer = call(self.client.get_object, self.uri(key), **self.at(key))
            with contextlib.closing(answer["Body"]) as body:
                data = _Body(body, self.uri(key)).read(-1)
            if len(data) != answer["ContentLength"]:
                raise InterruptionError(f"{self.uri(key)}: connection closed early")
            return data, dict(answer)

        return patiently(once, attempts())

    @contextlib.contextmanager
    def open_range(self, key: str, etag: str, start: int, stop: int) -> Iterator[Stream]:
        """Bytes start..stop-1, asked for once. Raises ChangedError if its state is another one."""
        where = self.uri(key)
        extent = f"bytes={start}-{stop - 1}"
        answer = call(self.client.get_object, where, **self.at(key), Range=extent)
        if answer["ETag"] != etag:
            raise ChangedError(f"{where} has changed while it was fetched")
        with contextlib.closing(answer["Body"]) as body:
            yield _Body(body, where)

    def _full(self, key: str) -> str:
        checked = check_key(key)
        return f"{self.prefix}/{checked}" if self.prefix else checked


class _Body:
    """botocore's stream, whose errors are of four libraries."""

    def __init__(self, body: Any, where: str) -> None:
        self._body, self._where = body, where

    def read(self, amount: int, /) -> bytes:
        try:
            return bytes(self._body.read() if amount < 0 else self._body.read(amount))
        except Exception as error:
            raise broken(error, self._where) from None
