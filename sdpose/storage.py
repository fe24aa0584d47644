"""The few object operations that the system needs. Objects are written once, whole, and are found
under a key; what is read is checked against its SHA-256.

A store is a folder today (a path or `file://`). S3 gets the same operations.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from sdpose.errors import UserError

CHUNK_BYTES = 1 << 20


class DamagedObjectError(RuntimeError):
    """The bytes under a key are not the ones that were stored there."""


class FileStore:
    """Objects as files below `root`; a key is a relative path with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def uri(self, key: str) -> str:
        return (self.root / key).absolute().as_uri()

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted."""
        folder = self.root / prefix
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(self.root).as_posix()

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def digest(self, key: str) -> str:
        """SHA-256, in hex, of the bytes that are stored now."""
        return sha256_of_file(self.root / key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes a new object; False, and nothing written, if the key is taken.

        Of several writers of one key exactly one gets True, and readers see all of it or nothing.
        """
        temporary = self._temporary(key)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                _make_durable(file)
            temporary.chmod(0o444)
            # A link, unlike a rename, fails if the name is taken.
            os.link(temporary, self.root / key)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        """Copies a file, whole or not at all, and reads it back.

        Bytes that are there already and right are kept, damaged ones are replaced.
        Raises DamagedObjectError if what arrived is not what `sha256` says.
        """
        if self.exists(key) and self.digest(key) == sha256:
            return
        temporary = self._temporary(key)
        try:
            with source.open("rb") as reader, temporary.open("wb") as writer:
                while chunk := reader.read(CHUNK_BYTES):
                    writer.write(chunk)
                _make_durable(writer)
            stored = sha256_of_file(temporary)
            if stored != sha256:
                raise DamagedObjectError(
                    f"{source} has SHA-256 {stored} in {self.root}, expected {sha256}: "
                    "the file changed while it was copied, or the copy is damaged"
                )
            temporary.chmod(0o444)
            temporary.replace(self.root / key)
        finally:
            temporary.unlink(missing_ok=True)

    def _temporary(self, key: str) -> Path:
        folder = (self.root / key).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=".")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        os.close(descriptor)
        return Path(name)


def open_store(uri: str | Path) -> FileStore:
    """The store of a path or a `file://` URI."""
    parts = urlsplit(str(uri))
    if parts.scheme == "file":
        return FileStore(Path(unquote(parts.path)))
    if "://" in str(uri):
        raise UserError(
            f"{uri}: {parts.scheme}:// is not supported as a store yet; give a folder, "
            "a mounted volume for instance"
        )
    return FileStore(Path(uri))


def s3_client() -> Any:
    """boto3's client; endpoint, region and credentials come from where AWS's own tools take them
    ($AWS_ENDPOINT_URL_S3, $AWS_ACCESS_KEY_ID, ~/.aws, the pod's or the machine's role)."""
    import boto3

    return boto3.client("s3")


def sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
