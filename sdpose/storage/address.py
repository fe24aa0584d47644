"""Parses the address of a store: a folder, or an S3 bucket with a prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sdpose.errors import UserError, refuse_credentials

ALLOWED = "give a folder, file:///folder or s3://bucket/prefix"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# s3//bucket, s3:/bucket: a folder of that name is hardly ever meant.
_ALMOST_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(//|:/)")


@dataclass(frozen=True)
class S3Address:
    bucket: str
    prefix: str  # without slashes at its ends; "" is the whole bucket

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_address(address: str | Path) -> S3Address | Path:
    """The folder, or the bucket and prefix, that an address names.

    An address has no query and no fragment: `#` and `?` are part of a key or a folder's name.

    >>> parse_address("s3://bucket/team#1/registry")
    S3Address(bucket='bucket', prefix='team#1/registry')
    >>> parse_address("file:///data/my%20registry")
    PosixPath('/data/my registry')

    Raises:
        UserError: it names neither, or contains credentials.
    """
    if isinstance(address, Path):
        return address
    text = refuse_credentials(address)
    if "\0" in text:
        raise UserError(f"{text!r}: a NUL character is not allowed in an address")
    if not text.strip():
        raise UserError(f"an empty address names no store: {ALLOWED}")
    uri = _URI.fullmatch(text.strip())
    if uri is None:
        return _folder(text)
    scheme, rest = uri[1].lower(), uri[2]
    if scheme == "s3":
        return _s3(text, rest)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError(
                f"'{text}': what follows file:// is a host, and '{host}' is not this machine; give "
                "the whole path after three slashes, as in file:///data/registry"
            )
        return Path("/" + unquote(path))
    raise UserError(f"'{text}': {scheme}:// is no store: {ALLOWED}")


def _s3(text: str, rest: str) -> S3Address:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not bucket:
        raise UserError("s3:// needs a bucket: s3://BUCKET/PREFIX")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        raise UserError(
            f"'{text}': '{bucket}' is no bucket's name (letters, digits, '.', '-' and '_')"
        )
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise UserError(
            f"'{text}': a prefix must not have empty parts, '.' or '..': servers and tools "
            "disagree on what they mean"
        )
    if not prefix.isprintable():
        raise UserError(f"{text!r}: a prefix must not have control characters")
    return S3Address(bucket, prefix)


def _folder(text: str) -> Path:
    if _ALMOST_URI.match(text):
        raise UserError(
            f"'{text}' looks like an address and is none: {ALLOWED} (of a folder of that name: "
            f"'./{text}')"
        )
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"'{text}': there is no home folder of that user (of a folder of that name: './{text}')"
        ) from None
