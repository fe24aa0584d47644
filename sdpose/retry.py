"""Retries of whatever talks to a network: exponential backoff with jitter, by tenacity.

    retrying(TransientError)(client.get, url)
    retrying(is_transient, attempts=None, seconds=30)(send, request)

What to do when the attempts are spent stays with the caller: the last error is raised again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    after_nothing,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    stop_never,
    wait_exponential,
)
from tenacity.stop import stop_base

ATTEMPTS = 6  # the first included
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0


class TransientError(Exception):
    """A failure that may go away by itself."""


def retrying(
    on: type[Exception] | Callable[[BaseException], bool],
    *,
    attempts: int | None = ATTEMPTS,
    seconds: float | None = None,
    first_pause: float | None = None,
    longest_pause: float = LONGEST_PAUSE_S,
    progress: Callable[[], object] | None = None,
    before_sleep: Callable[[RetryCallState], None] | None = None,
) -> Retrying:
    """A caller that repeats a function while it raises a transient error.

    Args:
        on: the type of the errors that are retried, or a function that tells them.
        attempts: calls without progress, at most; None for no limit.
        seconds: no further attempt begins later than this; None for no limit.
        first_pause: seconds after the first failure, doubled after each further one, each between
            50 and 150 % at random: many clients must not come back at once.
        longest_pause: seconds, before that variation.
        progress: a call that fails after this value has changed counts as the first failure.
        before_sleep: called before each pause, to log for example.
    Returns:
        A callable `(function, *args)` with the function's result; it raises the last error.
    """
    stop: stop_base = stop_never if attempts is None else stop_after_attempt(attempts)
    if seconds is not None:
        stop = stop | stop_before_delay(seconds)
    return Retrying(
        retry=retry_if_exception_type(on) if isinstance(on, type) else retry_if_exception(on),
        stop=stop,
        wait=_jittered(FIRST_PAUSE_S if first_pause is None else first_pause, longest_pause),
        after=_count_from_progress(progress) if progress else after_nothing,
        before_sleep=before_sleep,
        reraise=True,
    )


def _jittered(first: float, longest: float) -> Callable[[RetryCallState], float]:
    doubling = wait_exponential(multiplier=first, max=longest)
    return lambda state: doubling(state) * random.uniform(0.5, 1.5)


def _count_from_progress(progress: Callable[[], object]) -> Callable[[RetryCallState], None]:
    seen = progress()

    def after(state: RetryCallState) -> None:
        nonlocal seen
        if (now := progress()) != seen:
            seen, state.attempt_number = now, 1

    return after
