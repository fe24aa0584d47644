"""Shows what the package logs."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from sdpose.credentials import without_secrets
from sdpose.printable import printable

# What these log belongs to a run: a training sends it to its output and its log files.
RUN_LOGGERS = (
    *("sdpose.outputs", "sdpose.runner", "sdpose.training"),
    *("sdpose.tracking.delivery", "sdpose.data.auto_skeleton"),
)


class _Lines(logging.Handler):
    """A line for each message; errors go to standard error in any case."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        write = self._write if record.levelno < logging.ERROR else _to_stderr
        try:
            write(printable(without_secrets(prefix + record.getMessage())))
        except (OSError, ValueError):  # it is closed, or its disk is full
            self.handleError(record)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # as it is at that moment: tests replace it


def log_to_stderr() -> None:
    """Shows the log of sdpose; for entry points."""
    show_log("sdpose", _Lines(_to_stderr))


def show_log(name: str, handler: logging.Handler) -> None:
    """Gives the messages of a package to one handler, once.

    The root logger's handlers, which belong to libraries (kfp's executor, for one), get none.
    """
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


@contextlib.contextmanager
def log_to(write: Callable[[str], None], names: Sequence[str] = RUN_LOGGERS) -> Iterator[None]:
    """Gives the messages of these loggers to `write`, and not to standard error, during the block.

    Messages of all threads; errors still go to standard error.
    """
    handler = _Lines(write)
    before = [(logger, logger.level, logger.propagate) for logger in map(logging.getLogger, names)]
    for logger, *_ in before:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
