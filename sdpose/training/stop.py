"""Whether somebody wants a run to stop."""

from __future__ import annotations

import contextlib
from typing import Protocol


class Stop(Protocol):
    """What the loop asks between two steps; sdpose.runner.stop_signals answers with SIGTERM and
    SIGINT."""

    @property
    def received(self) -> int:
        """The number of the signal that asks to stop; 0: none."""

    def adopt(self, signum: int) -> None:
        """Another rank was asked to stop, by this signal (0: none was)."""

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Inside, a request waits until it is asked for; the exit of the block obeys it."""


class NeverStop:
    """Nobody does: Ctrl-C raises KeyboardInterrupt, as in any program."""

    received = 0

    def adopt(self, signum: int) -> None: ...

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
