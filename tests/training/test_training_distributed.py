"""Several real processes under torchrun, on CPU."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import psutil
import pytest

from sdpose.training import train


def processes(count: int) -> tuple[str, ...]:
    """torchrun's arguments: its plain, static rendezvous, at a port of our own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ("--nproc-per-node", str(count), "--master-port", str(port), "--max-restarts", "1")


def losses(lines: list[dict], steps: int) -> dict[str, list[float]]:
    lines = [line for line in lines if line["mode"] == "train"][:steps]
    assert len(lines) == steps
    return {
        name: [line[name] for line in lines]
        for name in ("heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "grad_norm", "lr")
    }


def ranks(torchrun: int) -> list[psutil.Process]:
    return psutil.Process(torchrun).children()


def test_four_processes_train_the_model_of_one(make, launch, records) -> None:
    """The same global batch. SGD: Adam divides by the gradient's size and so amplifies rounding."""
    common = ("optimizer={type: SGD, lr: 0.05}", "total_epochs=2", "evaluation.interval=2")
    one = make(*common, work_dir="one")
    four = make(*common, "data.samples_per_gpu=2", work_dir="four")
    run = launch(four, torchrun=processes(4))
    single = train(one)
    assert run.wait() == 0, run.text()
    expected, actual = losses(records(one.work_dir), 20), losses(records(four.work_dir), 20)
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, rel=1e-5), name
    assert "4 processes, global batch 8" in run.text()
    assert single.best_metrics["AP"] == pytest.approx(records(four.work_dir)[-1]["AP"], abs=0.01)


def test_two_processes_stopped_and_killed(make, launch, records, assert_same_weights) -> None:
    """Against one process: the losses. Against two that were never disturbed: every bit."""
    two = make("data.samples_per_gpu=4", work_dir="two")
    undisturbed = launch(two, torchrun=processes(2))
    one = make(work_dir="one")
    train(one)
    assert undisturbed.wait() == 0, undisturbed.text()
    expected, actual = losses(records(one.work_dir), 20), losses(records(two.work_dir), 20)
    assert actual["heatmap_loss"] == pytest.approx(expected["heatmap_loss"], rel=1e-3)

    disturbed = make("data.samples_per_gpu=4", work_dir="disturbed")
    stopped = launch(disturbed, torchrun=processes(2))
    stopped.wait_for("Epoch [2][3/")
    stopped.process.send_signal(signal.SIGTERM)  # torchrun hands it on
    assert stopped.wait(30) != 0
    assert "stopped at epoch 2, iteration" in stopped.text()

    resumed = launch(disturbed, torchrun=processes(2))
    resumed.wait_for("Epoch [3][3/")
    _, victim = ranks(resumed.process.pid)
    victim.kill()  # SIGKILL of one; torchrun ends the other and starts both again
    assert resumed.wait() == 0, resumed.text()
    assert resumed.text().count("continuing from") == 2
    assert_same_weights(
        Path(two.work_dir) / "epoch_3.pth", Path(disturbed.work_dir) / "epoch_3.pth"
    )
