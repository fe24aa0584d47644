"""A store in a folder: a disk of this machine or a shared volume."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from sdpose.errors import UserError
from sdpose.storage.partial import partial_file, sync_folder
from sdpose.storage.store import (
    CHUNK_BYTES,
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    Tag,
    check_key,
    sha256_of_file,
)

TEMPORARY_PREFIX = ".new-"


class FileStore:
    """Objects as files below `root`. Names that start with a dot are the store's own: files that
    are being written, and in each folder a lock that outlives no process (flock)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"FileStore('{self.root}')"

    def uri(self, key: str) -> str:
        return (self.root / key).absolute().as_uri()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        keys = []
        for folder, folders, files in os.walk(self.root / prefix):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(folder).relative_to(self.root)
            keys += [(below / name).as_posix() for name in files if not name.startswith(".")]
        yield from sorted(keys)

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist") from None
        except OSError as error:
            raise UserError(f"cannot read {self.uri(key)}: {error.strerror}") from None

    def read_tagged(self, key: str) -> tuple[bytes, Tag] | None:
        try:
            data = self.read(key)
        except ObjectNotFoundError:
            return None
        return data, _tag(data)

    def put(self, key: str, data: bytes) -> None:
        with self._new_file(key) as temporary, self._locked(key):
            _write(temporary, data)
            self._replace(temporary, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._new_file(key) as temporary:
            _write(temporary, data)
            # A link, unlike a rename, fails if the name is taken.
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS may have made the link and lost its answer: then the file has two names.
                return temporary.stat().st_nlink == 2
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise
                raise UserError(
                    f"{self.root} has no hard links ({error.strerror}), without which two writers "
                    "of one name could both succeed: give a folder on another file system"
                ) from None
            sync_folder(path.parent)
        return True

    def swap(self, key: str, data: bytes, expected: Tag) -> bool:
        with self._new_file(key) as temporary, self._locked(key):
            known = self.read_tagged(key)
            if known is None or known[1] != expected:
                return False
            _write(temporary, data)
            self._replace(temporary, key)
        return True

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        if self.exists(key) and self.digest(key) == sha256:
            return
        with self._new_file(key) as temporary:
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
            self._replace(temporary, key)

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        path = self._path(key)
        if not path.is_file():
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist")
        with partial_file(target) as part:
            digest = hashlib.sha256()
            with path.open("rb") as reader, part.path.open("wb") as writer:
                while chunk := reader.read(CHUNK_BYTES):
                    digest.update(chunk)
                    writer.write(chunk)
            if sha256 is not None and digest.hexdigest() != sha256:
                part.discard()
                raise DamagedObjectError(
                    f"{self.uri(key)} has SHA-256 {digest.hexdigest()}, expected {sha256}"
                )
            part.finish()

    def digest(self, key: str) -> str:
        try:
            return sha256_of_file(self._path(key))
        except FileNotFoundError:
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist") from None

    def delete(self, key: str) -> None:
        path = self._path(key)
        if path.exists():
            with self._locked(key):
                path.unlink(missing_ok=True)
                sync_folder(path.parent)

    def move(self, key: str, target: str) -> None:
        source, destination = self._path(key), self._path(target)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            source.replace(destination)
            sync_folder(destination.parent)
            sync_folder(source.parent)
        except FileNotFoundError:
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist") from None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise UserError(f"cannot move {self.uri(key)}: {error.strerror}") from None
            # A folder of the store is a link to another disk.
            self.put_file(source, target, self.digest(key))
            self.delete(key)

    def sweep(self, older_than: timedelta, *, dry_run: bool = True) -> tuple[str, ...]:
        oldest = time.time() - older_than.total_seconds()
        left = sorted(
            path
            for path in self.root.rglob(TEMPORARY_PREFIX + "*")
            if path.lstat().st_mtime < oldest
        )
        if not dry_run:
            for path in left:
                path.unlink(missing_ok=True)
        return tuple(path.relative_to(self.root).as_posix() for path in left)

    def capabilities(self) -> Capabilities:
        return Capabilities(put_if_absent=True, swap=True, checksums=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _replace(self, temporary: Path, key: str) -> None:
        temporary.chmod(0o444)
        temporary.replace(self.root / key)
        sync_folder((self.root / key).parent)

    @contextlib.contextmanager
    def _new_file(self, key: str) -> Iterator[Path]:
        """A file beside the key's, to fill and to give the key's name; gone afterwards."""
        folder = self._path(key).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY_PREFIX)
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error}") from None

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Whoever replaces an object of the key's folder waits here for its turn."""
        with ((self.root / key).parent / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _tag(data: bytes) -> Tag:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _make_durable(file)
    path.chmod(0o444)


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
