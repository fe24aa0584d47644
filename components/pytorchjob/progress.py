"""How far training is, read from its log lines (TextLoggerHook's)."""

from __future__ import annotations

import re
import time

EVERY_S = 60.0

_STEP = re.compile(r"Epoch \[(\d+)\]\[(\d+)/(\d+)\].*?\beta: ([^,\s][^,]*),")


class Progress:
    """Says how far it is, at most once in EVERY_S."""

    def __init__(self, total_epochs: int) -> None:
        self._total_epochs = total_epochs
        self._next = time.monotonic()

    def read(self, line: str) -> str | None:
        """A sentence if this line of the master says something new, and it is time to say so.

        >>> progress = Progress(total_epochs=4)
        >>> progress.read("Epoch [2][50/100]\\tlr: 1.000e-03, eta: 0:01:02, time: 0.010")
        'progress: epoch 2 of 4, 38 %, 0:01:02 to go'
        """
        found = _STEP.search(line)
        if found is None or time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + EVERY_S
        epoch, iteration, iterations = (int(found[n]) for n in (1, 2, 3))
        done = (epoch - 1 + iteration / iterations) / self._total_epochs
        return (
            f"progress: epoch {epoch} of {self._total_epochs}, {100 * done:.0f} %, {found[4]} to go"
        )
