"""Locks between processes, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sdpose.errors import UserError
from sdpose.files import UNSUPPORTED, open_own

log = logging.getLogger(__name__)

# NFS without its lock service, Lustre without -o flock, some FUSE file systems.
NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Takes the exclusive lock of an open file or folder; False if the file system has no locks.

    Raises BlockingIOError if another process holds it, with `wait` False.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file that is made for this, beside what it protects.

    Yields False where the file system has no locks: the caller decides what it does without.
    Raises BlockingIOError like `lock`, UserError if something else has the name, OSError if the
    file cannot be made.
    """
    descriptor = open_own(path, shared=True)
    try:
        yield lock(descriptor, wait=wait)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_one(folder: Path, *, otherwise: str) -> Iterator[None]:
    """Holds `<folder>/lock` (the folder is made); the lock ends with the process.

    Where the file system has no locks, a warning says so.
    Raises UserError with the text `otherwise` if another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            locked = stack.enter_context(file_lock(folder / "lock", wait=False))
        except BlockingIOError:
            raise UserError(otherwise) from None
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        if not locked:
            log.warning(
                f"the file system of {folder} has no locks: make sure that no second process works "
                "there"
            )
        yield
