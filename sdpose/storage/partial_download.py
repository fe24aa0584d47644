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
    """`path` is what grows, `state` what is known of it; both outlive a killed process."""

    def __init__(self, target: Path, path: Path, descriptor: int) -> None:
        self.target = target
        self.path = path
        self.state = path.with_name(f"{path.name}.json")
        self._descriptor = descriptor

    def rewrite(self) -> BinaryIO:
        """For writing, from the beginning."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._descriptor), "wb")

    def finish(self) -> None:
        """On the disk, then under the target's name."""
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


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[PartialFile]:
    """The partial file of a target, for this process alone: another one waits here.

    Where the file system has no locks nobody can wait: each process has a file of its own then,
    and an interrupted transfer starts again.

    Raises UserError if the folder cannot be written, or something else has the file's name.
    """
    path = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = open_own(path)
            try:
                locked = lock(descriptor)
                # Whoever had it may have given it the target's name.
                if locked and not is_at(descriptor, path):
                    continue
                if locked:
                    with _until_done(PartialFile(target, path, descriptor)) as part:
                        yield part
                    return
                _remove_if_empty(path)
            finally:
                os.close(descriptor)
            with _unlocked(target) as part:
                yield part
            return
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from None


@contextlib.contextmanager
def _until_done(part: PartialFile) -> Iterator[PartialFile]:
    try:
        yield part
    finally:
        _remove_if_empty(part.path)


@contextlib.contextmanager
def _unlocked(target: Path) -> Iterator[PartialFile]:
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    descriptor = open_own(path)
    part = PartialFile(target, path, descriptor)
    try:
        yield part
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        part.state.unlink(missing_ok=True)


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_size == 0:
            path.unlink()
