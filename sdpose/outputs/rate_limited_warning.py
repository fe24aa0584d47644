"""A trouble that lasts, told without filling the log."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


class Reminder:
    """Tells of a trouble at once, then once a minute while it lasts, and when it is over."""

    def __init__(self, every_seconds: float = 60.0) -> None:
        self._every = every_seconds
        self._told: float | None = None

    def trouble(self, text: str) -> None:
        now = time.monotonic()
        if self._told is None or now - self._told >= self._every:
            self._told = now
            logger.warning(text)

    def over(self, text: str) -> None:
        if self._told is not None:
            self._told = None
            logger.info(text)
