"""Nothing that was started is left, whatever it does to stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.local.processes import run_process
from pipelines.local.step_output import StepOutput
from sdpose.signals import GRACE_SECONDS, REPEAT_SECONDS

# What a step may start: a process in a session of its own (a torchrun worker), one that ignores
# SIGTERM, and one whose parent has died.
STEP = """
import os, signal, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
subprocess.Popen(sleep, start_new_session=True)
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
subprocess.Popen([sys.executable, "-c", stubborn])
subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({sleep})"])
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("started", flush=True)
time.sleep(300)
"""
RUN = """
import os, sys
from components.interrupts import Interrupted
from pipelines.local.processes import *
adopt_orphans()
output = StepOutput(sys.stdout.buffer.write)
try:
    with interruptible():
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        print("code", run_process([*shell, *sys.argv[1:]], os.environ, output))
except Interrupted as interrupted:
    print(interrupted)
    sys.exit(interrupted.exit_code)
"""


def start(repository: Path, *command: str) -> subprocess.Popen[str]:
    # SIGINT is ignored by what a script starts in the background.
    return subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-u", "-c", RUN, *command],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kept_open", [False, True])
def test_no_line_is_lost_where_they_are_written_slowly(kept_open: bool, tmp_path: Path) -> None:
    """A terminal, or a machine that is busy. The command may leave a process that keeps its output
    open, which nobody waits for."""
    seen: list[bytes] = []

    def write(data: bytes) -> None:
        time.sleep(0.3)
        seen.append(data)

    lines = "".join(f"line {number}\\n" for number in range(6))
    pid = tmp_path / "pid"
    left_behind = f"sleep 60 & echo $! > {pid}; " if kept_open else ""
    command = ["sh", "-c", f"{left_behind}printf '{lines}'; exit 3"]
    output = StepOutput(write)
    start = time.monotonic()
    assert run_process(command, os.environ, output, terminal=False) == 3
    assert time.monotonic() - start < 50
    assert b"".join(seen).decode().splitlines() == output.tail
    assert output.tail == [f"line {number}" for number in range(6)]
    if kept_open:
        os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_all_descendants_end(repository: Path, living, request_to_end: int) -> None:
    process = start(repository, sys.executable, "-c", STEP)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    this = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while len(descendants := this.children(recursive=True)) < 5:  # the shell and four more
        assert time.monotonic() < deadline, descendants
    process.send_signal(request_to_end)
    stdout = process.stdout.read()
    assert process.wait(timeout=240) == 128 + request_to_end
    assert stdout == f"saved\n{signal.Signals(request_to_end).name}\n"
    assert not living(descendants)


def test_asked_twice_kills_at_once(repository: Path, living) -> None:
    saving_for_long = STEP.replace("sys.exit(0)", "")
    process = start(repository, sys.executable, "-c", saving_for_long)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saved\n"
    time.sleep(2 * REPEAT_SECONDS)
    assert living(descendants), "the first request leaves time to save"
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(timeout=240) == 130
    assert time.monotonic() - asked < GRACE_SECONDS[signal.SIGTERM]
    assert not living(descendants)


def test_exit_code_and_a_process_left_behind(repository: Path) -> None:
    left_behind = (
        "import subprocess, sys; print(subprocess.Popen(['sleep', '300']).pid, flush=True);"
        "sys.exit(3)"
    )
    process = subprocess.run(
        [sys.executable, "-u", "-c", RUN, sys.executable, "-c", left_behind],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    pid, end = process.stdout.splitlines()
    psutil.Process(int(pid)).kill()
    assert end == "code 3"


def test_kfp_is_waited_for_when_interrupted(repository: Path) -> None:
    """Or it would write into a log that is closed, and say so on the terminal."""
    script = """
import os, signal, threading, time
from components.interrupts import Interrupted
from pipelines.local.processes import interruptible
from pipelines.local.kfp_local import _in_a_thread
refused = threading.Event()
def work():
    os.kill(os.getpid(), signal.SIGINT)
    assert refused.wait(20)
    time.sleep(1)
    print("kfp has ended")
try:
    with interruptible():
        _in_a_thread(work, refused.set)
except Interrupted:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-u", "-c", script],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("kfp has ended\ninterrupted\n", "")
