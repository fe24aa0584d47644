"""The protocol by which the loop learns of a request to stop."""

from __future__ import annotations

import contextlib
from typing import Protocol


class Stop(Protocol):
    """Polled by the loop after every step; sdpose.runner.stop_signals handles the signals."""

    @property
    def received(self) -> int:
        """The number of the signal that requests a stop; 0: none."""

    def adopt(self, signum: int) -> None:
        """Take over a request from another rank: the signal's number, 0 for none."""

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Defer requests within the block; `received` shows them, leaving the block obeys them."""


class NeverStop:
    """No requests: Ctrl-C raises KeyboardInterrupt, as in any program."""

    received = 0

    def adopt(self, signum: int) -> None: ...

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
