"""What goes away by itself is tried again after growing pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sdpose.storage.store import StoreUnavailableError

ATTEMPTS = 6  # without progress, the first included
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0

T = TypeVar("T")


class InterruptionError(Exception):
    """Worth another try."""


def patiently(action: Callable[[], T], attempts: int | None = None) -> T:
    """Calls it, and again after growing pauses while it is `InterruptionError`."""
    attempt = 1
    while True:
        try:
            return action()
        except InterruptionError as error:
            pause_or_give_up(attempt, error, attempts)
        attempt += 1


def pause_or_give_up(attempt: int, error: InterruptionError, attempts: int | None = None) -> None:
    """Waits after the n-th failed attempt, with jitter: many clients must not come back at once.

    Raises StoreUnavailableError if it was the last one.
    """
    if attempt >= (attempts or ATTEMPTS):
        raise StoreUnavailableError(f"gave up after {attempt} attempts: {error}") from None
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    time.sleep(pause * random.uniform(0.5, 1.5))
