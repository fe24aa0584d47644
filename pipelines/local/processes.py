"""The processes that a local run starts: their output, and how all of them are stopped."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Mapping, Sequence

import psutil

from components.interrupts import interrupted_by
from pipelines.local.step_output import StepOutput
from sdpose.signals import GRACE_SECONDS, REPEAT_SECONDS

MARGIN_S = 2.0  # for a training that takes all of its time to end itself
PR_SET_CHILD_SUBREAPER = 36


_hurry = threading.Event()  # asked twice: nothing is waited for any more


def interruptible() -> contextlib.AbstractContextManager[None]:
    """Turns the first SIGINT, SIGTERM or SIGHUP into `Interrupted`; a second one kills at once."""

    def again(seconds: float) -> None:
        if seconds > REPEAT_SECONDS:
            _hurry.set()

    return interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, again=again)


def run_process(
    command: Sequence[str], env: Mapping[str, str], output: StepOutput, *, terminal: bool = True
) -> int:
    """Runs a command to its end, its output handed on live; returns its exit code as a shell does.

    Where this process writes to a terminal, the command does too (a pseudo-terminal of its own),
    unless `terminal` is False.
    It gets a session of its own, so that Ctrl-C reaches this process alone, which then stops the
    command's processes in order: a signal to all of them at once would end a training's loader
    workers under it, before it can save.
    """
    stdout = sys.__stdout__  # sys.stdout may be redirected to a log
    assert stdout is not None
    on_terminal = terminal and stdout.isatty()
    reader, writer = pty.openpty() if on_terminal else os.pipe()
    if on_terminal:
        tty.setraw(writer)  # else the terminal driver would turn \n into \r\n, twice
        size = fcntl.ioctl(stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.STDOUT,
        env=dict(env),
        start_new_session=True,
    )
    os.close(writer)
    ended, end = os.pipe()
    copier = threading.Thread(target=_copy, args=(reader, ended, output), daemon=True)
    copier.start()
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code
    except BaseException:
        stop_descendants()
        raise
    finally:
        # All that the command has written is in the pipe by now. A process that it left behind may
        # hold the pipe open; its output is not waited for.
        os.close(end)
        copier.join()
        output.close()


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose parent has died, so that they are found.

    Linux only (a subreaper); elsewhere a process that outlived its parent is not found.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_descendants() -> None:
    """Ends every process that this one started.

    A step's own process gets SIGTERM, and the time that training promises to need for its last
    checkpoint at most. What it leaves behind, or what is still there then, is killed.
    """
    this = psutil.Process()
    steps: list[psutil.Process] = []
    for child in this.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            # kfp wraps each step in a shell, which would die of the signal and not hand it on.
            is_shell = child.name() in {"sh", "dash", "bash"}
            for process in (child.children() if is_shell else []) or [child]:
                process.terminate()
                steps.append(process)
    _wait_for_end(this, set(steps), GRACE_SECONDS[signal.SIGTERM] + MARGIN_S)
    for process in _living_descendants(this):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_for_end(this, None, 1.0)


def _wait_for_end(this: psutil.Process, which: set[psutil.Process] | None, seconds: float) -> None:
    """Until these descendants (None: all) have ended, time is up, or a person is in a hurry."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (which and _hurry.is_set()):
        living = _living_descendants(this)
        if not (living if which is None else which.intersection(living)):
            return
        time.sleep(0.05)


def _living_descendants(this: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    living = []
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def _copy(reader: int, ended: int, output: StepOutput) -> None:
    """Until nobody writes any more, or `ended` is closed at its other end and nothing is left."""
    with os.fdopen(reader, "rb", buffering=0) as stream, os.fdopen(ended, "rb") as other:
        while True:
            readable, _, _ = select.select([stream, other], [], [])
            if stream not in readable:
                return
            try:
                data = stream.read(65536)
            except OSError:  # how a pseudo-terminal says that nobody writes any more
                return
            if not data:
                return
            output.feed(data)
