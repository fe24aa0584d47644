"""A store in a folder: a disk of this machine or a shared volume."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from sdpose.errors import UserError
from sdpose.files import UNSUPPORTED, is_file, make_read_only, sha256_of_file, sync_folder, walk
from sdpose.locking import file_lock
from sdpose.storage.partial_download import partial_file
from sdpose.storage.store import (
    CHUNK_BYTES,
    Capabilities,
    DamagedObjectError,
    ObjectNotFoundError,
    StoreUnavailableError,
    Tag,
    check_key,
)

TEMPORARY_PREFIX = ".new-"
# EMLINK: of file systems that allow a file one name.
_NO_HARD_LINKS = UNSUPPORTED | {errno.EPERM, errno.EMLINK}


class FileStore:
    """Objects as files below `root`.

    Names that start with a dot are the store's own: files being written, and a lock (flock) in each
    folder, which ends with the process that holds it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"FileStore('{self.root}')"

    def uri(self, key: str) -> str:
        return (self.root / key).absolute().as_uri()

    def exists(self, key: str) -> bool:
        path = self._path(key)
        try:
            return is_file(path)
        except OSError as error:
            raise StoreUnavailableError(
                f"{self.uri(key)} cannot be seen: {error.strerror}"
            ) from None

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix
        start = len(os.path.join(folder, ""))
        below = f"{prefix.strip('/')}/" if prefix else ""
        yield from sorted(below + path[start:] for path in self._walk(folder, hidden=False))

    def read(self, key: str) -> bytes:
        with self._reading(key):
            return self._path(key).read_bytes()

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
            # Unlike a rename, a link fails if the name is taken.
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS may have made the link and lost its answer: then the file has two names.
                return temporary.stat().st_nlink == 2
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                raise UserError(
                    f"{self.root} has no hard links ({error.strerror}), without which two writers "
                    "of one name could both succeed: give a folder on another file system"
                ) from None
            sync_folder(path.parent)
        return True

    def swap(self, key: str, data: bytes, expected: Tag) -> bool:
        with self._new_file(key) as temporary, self._locked(key) as locked:
            if not locked:
                raise UserError(
                    f"{self.root} has no file locks, without which two writers could replace the "
                    "same state: give a folder on another file system"
                )
            known = self.read_tagged(key)
            if known is None or known[1] != expected:
                return False
            _write(temporary, data)
            self._replace(temporary, key)
        return True

    def put_file(self, source: Path, key: str, sha256: str) -> None:
        with contextlib.ExitStack() as stack:
            try:
                reader = stack.enter_context(source.open("rb"))
            except OSError as error:
                raise UserError(f"cannot read {source}: {error.strerror}") from None
            if self._holds(key, reader, sha256):
                return
            reader.seek(0)
            temporary = stack.enter_context(self._new_file(key))
            with temporary.open("wb") as writer:
                stored = _copy(reader, writer)
                _make_durable(writer)
            if stored != sha256:
                raise DamagedObjectError(
                    f"{source} has SHA-256 {stored}, expected {sha256}: the file changed while it "
                    "was copied, or it is damaged"
                )
            self._replace(temporary, key)

    def _holds(self, key: str, source: BinaryIO, sha256: str) -> bool:
        """Whether the object has the bytes of the source, and these have the digest.

        It is compared with the source while it is read: other content differs at once, and only an
        object that is kept is read to its end.
        """
        path = self._path(key)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as stored:
                if os.fstat(stored.fileno()).st_size != os.fstat(source.fileno()).st_size:
                    return False
                while chunk := stored.read(CHUNK_BYTES):
                    if chunk != source.read(CHUNK_BYTES):
                        return False
                    digest.update(chunk)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreUnavailableError(f"cannot read {self.uri(key)}: {error.strerror}") from None
        return digest.hexdigest() == sha256

    def get_file(self, key: str, target: Path, sha256: str | None = None) -> None:
        with contextlib.ExitStack() as stack:
            with self._reading(key):
                reader = stack.enter_context(self._path(key).open("rb"))
            part = stack.enter_context(partial_file(target))
            with part.rewrite() as writer:
                digest = _copy(reader, writer)
            if sha256 is not None and digest != sha256:
                part.discard()
                raise DamagedObjectError(f"{self.uri(key)} has SHA-256 {digest}, expected {sha256}")
            part.finish()

    def digest(self, key: str) -> str:
        with self._reading(key):
            return sha256_of_file(self._path(key))

    def delete(self, key: str) -> None:
        path = self._path(key)
        if not self.exists(key):
            return
        try:
            with self._locked(key):
                path.unlink(missing_ok=True)
                sync_folder(path.parent)
        except OSError as error:
            raise UserError(f"cannot remove {self.uri(key)}: {error.strerror}") from None

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
        left = []
        for path in map(Path, self._walk(self.root, hidden=True)):
            if path.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(FileNotFoundError):  # its writer is done meanwhile
                    if path.lstat().st_mtime < oldest:
                        left.append(path)
        left.sort()
        if not dry_run:
            for path in left:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise UserError(f"cannot remove {path}: {error.strerror}") from None
        return tuple(path.relative_to(self.root).as_posix() for path in left)

    def capabilities(self) -> Capabilities:
        return Capabilities(put_if_absent=True, swap=True, checksums=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, folder: Path, *, hidden: bool) -> Iterator[str]:
        """Files below a folder. Raises StoreUnavailableError where a folder cannot be listed: a
        caller may remove what is not listed."""
        try:
            yield from walk(folder, hidden=hidden)
        except OSError as error:
            raise StoreUnavailableError(
                f"cannot list {error.filename or self.root}: {error.strerror}; nothing is known of "
                "what lies there"
            ) from None

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectNotFoundError(f"{self.uri(key)} does not exist") from None
        except OSError as error:
            raise UserError(f"cannot read {self.uri(key)}: {error.strerror}") from None

    def _replace(self, temporary: Path, key: str) -> None:
        make_read_only(temporary)
        temporary.replace(self.root / key)
        sync_folder((self.root / key).parent)

    @contextlib.contextmanager
    def _new_file(self, key: str) -> Iterator[Path]:
        """A temporary file in the folder of the key; removed afterwards."""
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
    def _locked(self, key: str) -> Iterator[bool]:
        """Holds the lock of the key's folder; False where the file system has no locks."""
        with file_lock((self.root / key).parent / ".lock") as locked:
            yield locked


def _tag(data: bytes) -> Tag:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _make_durable(file)
    make_read_only(path)


def _copy(reader: BinaryIO, writer: BinaryIO) -> str:
    """The SHA-256 of what was copied."""
    digest = hashlib.sha256()
    for chunk in _chunks(reader):
        writer.write(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(reader: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := reader.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise UserError(f"cannot read {reader.name}: {error.strerror}") from None


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
