"""SIGINT and SIGTERM: finish the step in progress, save, end; within a fixed time.

While a training step or a save runs, a signal is only noted, and the loop asks at the next step
whether to stop. Anywhere else (start-up, evaluation) it ends the program at once by raising
`Interrupted`, because the checkpoint of the epoch is on the disk already. A second Ctrl-C, or the
end of the grace period, ends the process on the spot; checkpoints are written atomically, so the
one before stays valid. A second SIGTERM changes nothing: launchers send one to every process when
the first process has ended, and this one may be saving still.

Python runs signal handlers between two bytecodes of the main thread, and a training step may sit
in one call for long. So the deadline is kept by a thread, which the interpreter's C-level handler
wakes through a pipe (signal.set_wakeup_fd) whatever the main thread does.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar

from sdpose.signals import GRACE_SECONDS, REPEAT_SECONDS
from sdpose.training.events import Events

# What a process needs to end after its last wait.
MARGIN_SECONDS = 3.0


class Interrupted(SystemExit):
    """Ends the process with 128 + the signal's number, as shells and PyTorchJob expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class StopSignals:
    """`with StopSignals(speak) as stop:`; outside of the main thread it does nothing.

    speak: whether this process (the first on its machine) tells the user what happens.
    """

    installed: ClassVar[StopSignals | None] = None

    def __init__(self, speak: bool) -> None:
        self._speak = speak
        self._received: int = 0
        self._give_up_at = math.inf
        self._deferring = False
        self._raised = False
        self._active = threading.current_thread() is threading.main_thread()

    @property
    def received(self) -> int:
        """The number of the first signal that came, else 0."""
        return self._received

    @property
    def seconds_left(self) -> float:
        """Until this process, or the one whose request it adopted, is ended; less a margin."""
        return max(0.0, self._give_up_at - time.monotonic() - MARGIN_SECONDS)

    def adopt(self, signum: int) -> None:
        """Takes over the signal that another process received; other numbers are ignored."""
        if signum in GRACE_SECONDS and not self._received:
            number = signal.Signals(signum)
            self._note(number)
            self._tell(f"another process of this run received {number.name}: stopping with it")

    def _note(self, signum: signal.Signals) -> None:
        self._received = self._received or signum
        if self._give_up_at == math.inf:
            self._give_up_at = time.monotonic() + GRACE_SECONDS[signum]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, signals are noted and do not interrupt; the caller asks `received`.

        Raises `Interrupted` at its end if one came.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._received:
            self._raise()

    def __enter__(self) -> StopSignals:
        if not self._active:
            return self
        StopSignals.installed = self
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._previous = {signum: signal.signal(signum, self._handle) for signum in GRACE_SECONDS}
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._active or self._received:
            return  # the deadline covers what is left of the process, its own end included
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._write_end)  # ends the thread
        StopSignals.installed = None

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self._note(signal.Signals(signum))
        if not self._deferring and not self._raised:
            self._raise()

    def _raise(self) -> None:
        self._raised = True  # once: the clean-up that follows is not to be interrupted again
        raise Interrupted(self._received)

    def _watch(self) -> None:
        while signum := os.read(self._read_end, 1):
            if signum[0] not in GRACE_SECONDS:
                continue  # another signal's handler
            first = signal.Signals(signum[0])
            self._note(first)
            threading.Timer(GRACE_SECONDS[first], self._give_up, (first, "time is up")).start()
            if self._deferring:
                self._tell(
                    f"{first.name}: finishing the step and saving, at most "
                    f"{GRACE_SECONDS[first]:.0f} s" + " (again: at once)" * (first == signal.SIGINT)
                )
            repeats_until = time.monotonic() + REPEAT_SECONDS
            while again := os.read(self._read_end, 1):
                if again[0] == signal.SIGINT and time.monotonic() > repeats_until:
                    self._give_up(first, "asked twice")
        os.close(self._read_end)

    def _give_up(self, signum: signal.Signals, reason: str) -> None:
        self._tell(f"{reason}: ending now; the checkpoint before stays valid")
        for child in multiprocessing.active_children():
            child.kill()
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # the progress bar hides the cursor
        os._exit(128 + signum)

    def _tell(self, text: str) -> None:
        if self._speak:
            os.write(2, f"\n{text}\n".encode())


@contextlib.contextmanager
def before_the_first_step(events: Events) -> Iterator[None]:
    """Answers a request to stop while nothing is trained yet, so nothing is saved."""
    try:
        yield
    except Interrupted:
        events.say("stopped before the first step; the same command starts again")
        raise


def _in_forked_child() -> None:
    """A loader process inherits the handlers and the pipe; neither is meant for it.

    It leaves Ctrl-C to its parent.
    """
    if StopSignals.installed is None:
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_forked_child)
