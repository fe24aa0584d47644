"""Shows what the package logs."""

from __future__ import annotations

import logging
import sys

from sdpose.credentials import without_secrets
from sdpose.printable import printable


class _Lines(logging.Handler):
    """A line on standard error for each message, as it is at that moment: tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        try:
            text = printable(without_secrets(record.getMessage()))
            print(prefix + text, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # it is closed, or its disk is full
            self.handleError(record)


def log_to_stderr() -> None:
    """For entry points. The root logger's handlers, which belong to libraries (kfp's executor, for
    one), get nothing of it."""
    logger = logging.getLogger("sdpose")
    if not logger.handlers:
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
        logger.propagate = False
