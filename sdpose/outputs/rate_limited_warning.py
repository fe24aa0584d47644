"""A trouble that lasts, told without filling the log."""

from __future__ import annotations

import time

from sdpose.training.events import Say


class Reminder:
    """Tells of a trouble at once, then once a minute while it lasts, and when it is over."""

    def __init__(self, say: Say, every_seconds: float = 60.0) -> None:
        self._say, self._every = say, every_seconds
        self._told: float | None = None

    def trouble(self, text: str) -> None:
        now = time.monotonic()
        if self._told is None or now - self._told >= self._every:
            self._told = now
            self._say(text)

    def over(self, text: str) -> None:
        if self._told is not None:
            self._told = None
            self._say(text)
