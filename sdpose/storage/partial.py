"""A file that grows beside its target and takes its name when it is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sdpose.errors import UserError


class PartialFile:
    """`path` is what grows, `state` what is known of it; both outlive a killed process."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.state = target.with_name(f".{target.name}.part.json")

    def finish(self) -> None:
        """On the disk, then under the target's name."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        sync_folder(self.target.parent)
        self.state.unlink(missing_ok=True)

    def discard(self) -> None:
        """What has arrived is of no use."""
        os.truncate(self.path, 0)
        self.state.unlink(missing_ok=True)


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[PartialFile]:
    """The partial file of a target, for this process alone: another one waits here.

    Raises UserError if the folder cannot be written.
    """
    part = PartialFile(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with part.path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Whoever had it may have given it the target's name.
                if not _is_at(file.fileno(), part.path):
                    continue
                try:
                    yield part
                finally:
                    _remove_if_empty(part.path)
                return
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}") from None


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == 0:
            path.unlink()
