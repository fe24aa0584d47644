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

RANKS = 2
TIMES = 1000


def test_a_thousand_evaluations_leak_nothing() -> None:
    """Descriptors, threads and process groups: the same after the first and the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
    program = Path(__file__).with_name("many_evaluations.py")
    shared = {
        **os.environ,
        "WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(TIMES)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * RANKS
    for output in outputs:
        first, last = output.splitlines()
        assert last == first, "descriptors, threads, groups"


def test_a_run_with_many_evaluations_leaks_nothing(make, launch) -> None:
    run = launch(
        make("data.samples_per_gpu=4", "total_epochs=8", "evaluation.interval=1"),
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
