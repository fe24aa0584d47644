"""Several machines, whose outputs are several logs: each says why its processes ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sdpose.errors import PEER_ERROR, PEER_LOST_EXIT_CODE, UserError
from sdpose.runner.process_group import process_group

pytestmark = pytest.mark.slow

RANK = Path(__file__).with_name("one_rank.py")
Start = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(case, [1, 2]): one process on the first machine, two on the second."""
    started: list[subprocess.Popen[str]] = []

    def start(case: str, nodes: list[int]) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = [(node, local) for node, count in enumerate(nodes) for local in range(count)]
        for rank, (node, local) in enumerate(places):
            environment = {
                "RANK": rank,
                "LOCAL_RANK": local,
                "GROUP_RANK": node,
                "WORLD_SIZE": len(places),
                "LOCAL_WORLD_SIZE": nodes[node],
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": 1,
                "UPLOADED": tmp_path / "uploaded",
            }
            started.append(
                subprocess.Popen(
                    [sys.executable, RANK, case],
                    env=os.environ | {name: str(value) for name, value in environment.items()},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_others_end_after_the_one_that_met_the_error(start: Start, tmp_path: Path) -> None:
    """Kubernetes ends a job with its first pod: rank 0 must have printed its error by then."""
    processes = start("main", [2, 2])
    assert processes[2].wait(100) == 2
    assert (tmp_path / "uploaded").exists()
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [2] * 4
    assert outputs[0] == "error: MLflow cannot be written\n"
    assert outputs[2] == f"process 2 ends: {PEER_ERROR}; see its output\n"
    assert outputs[1] == outputs[3] == "", "others of their machine have said it"


def test_the_others_end_with_one_that_is_asked_to(start: Start) -> None:
    first, second = start("interrupt", [1, 1])
    assert second.communicate(timeout=300)[0] == "process 1 ends: process 0 ends with 143\n"
    assert first.communicate(timeout=300)[0] == ""
    assert first.returncode == second.returncode == 143


@pytest.mark.parametrize("nodes", [[1, 2], [2]], ids=["another machine", "the same machine"])
def test_an_error_of_another_rank_is_printed_once_on_its_machine(
    start: Start, nodes: list[int]
) -> None:
    processes = start("other", nodes)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert {process.returncode for process in processes} <= {2, PEER_LOST_EXIT_CODE}
    assert "lost.jpg cannot be read" in outputs[0]
    told = "".join(outputs[1:])
    assert told.count("cannot be read") == (len(nodes) > 1), told
    assert "Traceback" not in "".join(outputs)


def test_more_processes_than_gpus_are_refused_by_all_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the first process of a machine prints a user's error: it must meet this one, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"3 processes .* has 2 GPU"), process_group():
        pass
