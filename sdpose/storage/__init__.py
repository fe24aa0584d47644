"""The few object operations that the system needs, on a folder and on S3.

Objects are written once, whole, and found under a key; what is read is checked. `Store` says what
holds on every kind of store.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdpose.errors import UserError, refuse_credentials
from sdpose.storage.files import FileStore
from sdpose.storage.s3 import S3Store
from sdpose.storage.s3_client import s3_client
from sdpose.storage.store import (
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    Store,
    StoreUnavailableError,
    Tag,
    sha256_of_file,
)

__all__ = [
    "Capabilities",
    "DamagedObjectError",
    "FileStore",
    "ObjectNotFoundError",
    "S3Store",
    "Store",
    "StoreUnavailableError",
    "Tag",
    "open_store",
    "s3_client",
    "sha256_of_file",
]


def open_store(uri: str | Path) -> Store:
    """The store of a folder (a path or `file://`) or of `s3://bucket/prefix`."""
    parts = urlsplit(refuse_credentials(str(uri)))
    if parts.scheme == "file":
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path)
    if "://" in str(uri):
        raise UserError(f"{parts.scheme}:// is no store: give a folder, file:// or s3://")
    return FileStore(Path(uri))
