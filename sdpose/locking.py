"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from sdpose.errors import UserError


@contextlib.contextmanager
def only_one(folder: Path, *, otherwise: str) -> Iterator[None]:
    """Holds `<folder>/lock` (the folder is made); the lock ends with the process.

    Raises UserError with the text `otherwise` if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(otherwise) from None
        yield
