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
    """Shows the log of sdpose; for entry points."""
    show_log("sdpose", _Lines())


def show_log(name: str, handler: logging.Handler) -> None:
    """Gives the messages of a package to one handler, once.

    The root logger's handlers, which belong to libraries (kfp's executor, for one), get none.
    """
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
