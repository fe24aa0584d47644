"""Object storage in a folder or on S3: the only package that imports boto3.

Objects are written whole and read by key; what is read is verified. The protocol `Store` says what
every kind of store guarantees.
"""

from __future__ import annotations

from pathlib import Path

from sdpose.storage.address import S3Address, parse_address
from sdpose.storage.file_store import FileStore
from sdpose.storage.s3_client import s3_client
from sdpose.storage.s3_store import S3Store
from sdpose.storage.store import (
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    Store,
    StoreUnavailableError,
    Tag,
)

__all__ = [
    "Capabilities",
    "DamagedObjectError",
    "FileStore",
    "ObjectNotFoundError",
    "S3Address",
    "S3Store",
    "Store",
    "StoreUnavailableError",
    "Tag",
    "open_store",
    "parse_address",
    "s3_client",
]


def open_store(uri: str | Path) -> Store:
    """The store of a folder (a path or `file://`) or of `s3://bucket/prefix`."""
    address = parse_address(uri)
    if isinstance(address, S3Address):
        return S3Store(address.bucket, address.prefix)
    return FileStore(address)
