"""Log files that a full disk does not stop."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import BinaryIO

from sdpose.outputs.rate_limited_warning import Reminder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger(__name__)


class LogFile:
    """Bytes appended to a file, at once. What the disk refuses waits in memory and is tried again
    with every write: nothing is raised, nothing lost, and the order stays."""

    def __init__(self, path: Path) -> None:
        self._path, self._reminder = path, Reminder()
        self._file: BinaryIO | None = None
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        self._waiting += data
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Not buffered: Python's buffer would forget what a write that failed had left.
                self._file = self._path.open("ab", buffering=0)
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            self._reminder.trouble(
                f"cannot write {self._path}: {error.strerror}\n  Training goes on; what "
                "is to be written waits in memory."
            )
        else:
            self._reminder.over(f"{self._path} can be written again; nothing is missing in it")

    def close(self) -> None:
        self.write(b"")
        if self._waiting:
            logger.warning(f"the last {len(self._waiting)} bytes of {self._path} are lost")
        if self._file is not None:
            self._file.close()
