"""A request to end, by a person or a supervisor, as an exception: what must be cleaned up is."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator


class Interrupted(BaseException):
    """Ctrl-C, or a request to end; its text is the signal's name."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextlib.contextmanager
def interrupted_by(
    *signals: signal.Signals, again: Callable[[float], object] = lambda _seconds: None
) -> Iterator[None]:
    """Inside, the first of these signals raises `Interrupted`.

    The handlers are installed even where SIGINT is ignored, as it is for `submit.py &` in a script.
    again: called at each later signal, with the seconds since the first.
    """

    def interrupt(signum: int, _frame: object) -> None:
        first = time.monotonic()
        for each in signals:
            signal.signal(each, lambda _signum, _frame: again(time.monotonic() - first))
        raise Interrupted(signum)

    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
