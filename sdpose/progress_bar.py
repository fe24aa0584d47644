"""Progress of long work: a bar with the time left on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


class ConsoleProgress:
    """Called with (done, total); shows it on stderr. Work that ends at once shows nothing in a log.

    with ConsoleProgress("checking images", "images") as progress: progress(1, 100)
    """

    def __init__(self, label: str, unit: str) -> None:
        self._label = label
        self._unit = unit
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            amount: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
            columns = (TextColumn(label), BarColumn(), amount, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> ConsoleProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = (now - self._start) * (total - done) / max(done, 1)
        print(f"{self._label}: {self._amount(done, total)}, {left:.0f} s left", file=sys.stderr)
        sys.stderr.flush()

    def _amount(self, done: int, total: int) -> str:
        if self._unit == "bytes":
            return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
        return f"{done} of {total} {self._unit}"
