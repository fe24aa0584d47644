"""The few object operations that the system needs, on a folder and (soon) on S3.

Objects are written once, whole, and found under a key; what is read is checked. `Store` says what
holds on every kind of store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sdpose.errors import UserError
from sdpose.storage.files import FileStore
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
    "Store",
    "StoreUnavailableError",
    "Tag",
    "open_store",
    "s3_client",
    "sha256_of_file",
]


def open_store(uri: str | Path) -> Store:
    """The store of a folder (a path or `file://`)."""
    parts = urlsplit(str(uri))
    if parts.scheme == "file":
        return FileStore(Path(unquote(parts.path)))
    if "://" in str(uri):
        raise UserError(
            f"{parts.scheme}:// is not supported as a store yet; give a folder, "
            "a mounted volume for instance"
        )
    return FileStore(Path(uri))


def s3_client() -> Any:
    """boto3's client; endpoint, region and credentials come from where AWS's own tools take them
    ($AWS_ENDPOINT_URL_S3, $AWS_ACCESS_KEY_ID, ~/.aws, the pod's or the machine's role)."""
    import boto3

    return boto3.client("s3")
