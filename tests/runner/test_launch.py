"""`sdpose launch` and torchrun: real processes, really killed, and the exit code that counts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sdpose.errors import PEER_LOST_EXIT_CODE

SMALL = ("data.samples_per_gpu=4", "total_epochs=2")
RESTARTS = "launch --max-restarts 1"


@pytest.mark.parametrize("launcher", [RESTARTS, "torchrun --max-restarts 3"])
def test_one_of_two_processes_is_killed(make, launch, assert_same_weights, launcher) -> None:
    """Both are started again, and end with every bit of two that were never disturbed."""
    undisturbed = make(*SMALL, work_dir="undisturbed")
    killed = make(*SMALL, work_dir="killed")
    left_alone = launch(undisturbed, ranks=2)
    run = launch(killed, ranks=2, launcher=launcher, resume_from="auto")
    run.wait_for("Epoch [2][3/")
    _, victim = run.processes[0].children()
    victim.kill()
    assert run.wait() == 0, run.text()
    assert run.text().count("continuing from") == 1
    if launcher == RESTARTS:
        assert "process 1 was killed by SIGKILL" in run.text()
        assert "starting all again (0 more left)" in run.text()
        assert "Traceback" not in run.text()
    assert left_alone.wait() == 0, left_alone.text()
    assert_same_weights(
        Path(undisturbed.work_dir) / "epoch_2.pth", Path(killed.work_dir) / "epoch_2.pth"
    )


@pytest.mark.parametrize(
    ("victim", "number", "expected"),
    [
        ("launcher", signal.SIGTERM, 128 + signal.SIGTERM),
        ("rank 0", signal.SIGTERM, 128 + signal.SIGTERM),
        ("rank 0", signal.SIGKILL, 128 + signal.SIGKILL),
    ],
    ids=str,
)
def test_exit_codes_of_the_stopped(
    make, launch, victim: str, number: signal.Signals, expected: int
) -> None:
    """A request to stop is not worth a restart here; a killed process is, until none is left."""
    restarts = "" if number == signal.SIGKILL else RESTARTS
    run = launch(make(*SMALL), ranks=2, launcher=restarts or "launch --max-restarts 0")
    run.wait_for("Epoch [2][2/")
    ranks = run.processes[0].children()
    {"launcher": run.processes[0], "rank 0": ranks[0]}[victim].send_signal(number)
    assert run.wait() == expected, run.text()
    assert run.text().count("x 2 processes") == 1, run.text()  # not started again
    assert "Traceback" not in run.text()
    assert ("stopped at epoch 2" in run.text()) == (number == signal.SIGTERM)
    _, alive = psutil.wait_procs(ranks, timeout=240)
    assert alive == []


def test_a_users_error_is_told_once_and_final(make, launch, tmp_path: Path) -> None:
    run = launch(make("resume_from=nowhere.pth"), ranks=2, launcher=RESTARTS)
    assert run.wait() == 2
    assert run.text().startswith("error: resume_from: cannot read nowhere.pth")
    assert run.text().count("\n") == 1

    # Before torch is asked to start anything.
    for arguments, message in [
        (["--nproc-per-node", "2", "prepare", "x"], "cannot start 'prepare': expected train or"),
        (["--nproc-per-node", "two", "train", "x"], "Unsupported nproc_per_node value: two"),
    ]:
        command = [sys.executable, "-m", "sdpose", "launch", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr


def test_an_error_that_one_process_alone_meets_is_told(make, launch, dataset: Path) -> None:
    """An image that only the second process reads is lost between the check and its reading."""
    # As any launcher starts them: nobody ends the first process when the second one does.
    experiment = make("data.samples_per_gpu=1", "total_epochs=50", "log_config.interval=1000")
    run = launch(experiment, ranks=2)
    run.wait_for("x 2 processes")
    lost = sorted((dataset / "train2017").iterdir())[5]
    data = lost.read_bytes()
    lost.unlink()
    try:
        codes = {process.wait(60) for process in run.processes}
    finally:
        lost.write_bytes(data)
    assert codes <= {2, PEER_LOST_EXIT_CODE}
    assert 2 in codes
    assert lost.name in run.text()
    assert "Traceback" not in run.text()
