"""A file that grows beside its target and takes its name when it is complete."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sdpose.errors import UserError
from sdpose.files import is_at, open_own, sync_folder
from sdpose.locking import lock


class PartialFile:
    """A download under way: `path` grows, `state` says what has arrived; both outlive a kill."""

    def __init__(self, target: Path, path: Path, descriptor: int) -> None:
        self.target = target
        self.path = path
        self.state = path.with_name(f"{path.name}.json")
        self._descriptor = descriptor

    def rewrite(self) -> BinaryIO:
        """A stream that overwrites the file from its beginning."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._descriptor), "wb")

    def finish(self) -> None:
        """Flushes it to the disk, and gives it the target's name."""
        os.fsync(self._descriptor)
        if not is_at(self._descriptor, self.path):
            raise UserError(f"cannot write {self.target}: {self.path} was replaced meanwhile")
        self.path.replace(self.target)
        sync_folder(self.target.parent)
        self.state.unlink(missing_ok=True)

    def discard(self) -> None:
        """Empties it: what has arrived is not used."""
        os.ftruncate(self._descriptor, 0)
        self.state.unlink(missing_ok=True)

    def remove(self) -> None:
        """Closes and removes it, if it has not become the target."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[PartialFile]:
    """The partial file of a target, for this process alone: another one waits here.

    Where the file system has no locks nobody can wait: each process has a file of its own then,
    and an interrupted transfer starts again.

    Raises:
        UserError: the folder cannot be written, or something else has the file's name.
    """
    path = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path)
        if descriptor is not None:
            try:
                yield PartialFile(target, path, descriptor)
            finally:
                _remove_if_empty(path)
                os.close(descriptor)
            return
        path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        part = PartialFile(target, path, open_own(path))
        try:
            yield part
        finally:
            part.remove()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from None


def _open_locked(path: Path) -> int | None:
    """A descriptor of the file, with its lock; None where the file system has no locks."""
    while True:
        with contextlib.ExitStack() as undo:
            descriptor = open_own(path)
            undo.callback(os.close, descriptor)
            if not lock(descriptor):
                _remove_if_empty(path)
                return None
            # The process that held the lock may have given the file the target's name.
            if is_at(descriptor, path):
                undo.pop_all()
                return descriptor


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_size == 0:
            path.unlink()
