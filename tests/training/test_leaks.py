"""What a long run with several processes holds does not grow."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

RANKS = 2
TIMES = 1000


def run(*arguments: int) -> list[tuple[int, str, str]]:
    """many_evaluations.py in RANKS processes: of each its exit code, output and errors."""
    program = Path(__file__).with_name("many_evaluations.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, *output) for process, output in zip(processes, outputs, strict=True)
    ]


def test_a_thousand_evaluations_leak_nothing() -> None:
    """Descriptors, threads and process groups: the same after the first and the last one."""
    for code, output, errors in run(TIMES):
        assert code == 0, errors
        first, last = output.splitlines()
        assert last == first, "descriptors, threads, groups"


def test_descriptors_that_run_out_are_no_lost_process() -> None:
    (code, _, errors), _ = run(1, 2)  # fewer than another group takes
    assert code == 2, errors
    assert "error: too many open files" in errors
    assert "ulimit -n" in errors
    assert "Traceback" not in errors


def test_a_run_with_many_evaluations_leaks_nothing(make, launch) -> None:
    run = launch(
        make(
            "data.samples_per_gpu=4",
            "data.workers_per_gpu=1",  # of training and, new for every evaluation, of those
            "total_epochs=8",
            "evaluation.interval=1",
        ),
        ranks=2,
        pause=0.02,
    )
    held: dict[int, list[tuple[int, int]]] = {}  # by epoch: descriptors and threads of rank 0
    process = run.processes[0]
    while process.is_running():
        epochs = re.findall(r"Epoch \[(\d+)\]\[", run.text())
        with contextlib.suppress(psutil.Error):
            if epochs:
                held.setdefault(int(epochs[-1]), []).append(
                    (process.num_fds(), process.num_threads())
                )
        time.sleep(0.01)
    assert run.wait() == 0, run.text()
    # The fewest of an epoch: a checkpoint or an evaluation holds some for a moment.
    early, late = held[2] + held[3], held[7] + held[8]
    for what, before, after in zip(
        ("descriptors", "threads"), zip(*early, strict=True), zip(*late, strict=True), strict=True
    ):
        assert min(after) <= min(before), what
