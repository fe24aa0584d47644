"""Several real processes, on CPU."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch

from sdpose.training import train


def losses(lines: list[dict]) -> dict[str, list[float]]:
    lines = [line for line in lines if line["mode"] == "train"]
    return {
        name: [line[name] for line in lines]
        for name in ("heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "grad_norm", "lr")
    }


def test_four_processes_then_one_train_the_model_of_one(make, launch, records) -> None:
    """The same global batch; asked to stop in epoch 2, and continued by a single process.

    SGD: Adam divides by the gradient's size and so amplifies rounding.
    """
    common = ("optimizer={type: SGD, lr: 0.05}", "total_epochs=3", "evaluation.interval=10")
    run = launch(make(*common, "data.samples_per_gpu=2", work_dir="four"), ranks=4)
    one = make(*common, work_dir="one")
    train(one)
    run.wait_for("Epoch [2][4/")
    run.processes[3].send_signal(signal.SIGTERM)  # one is asked, all stop at the same step
    assert run.wait(30) == 128 + signal.SIGTERM, run.text()
    assert re.search(r"stopped at epoch 2, iteration \d+/", run.text()), run.text()
    assert "4 processes, global batch 8" in run.text()

    resumed = make(*common, "resume_from=auto", work_dir="four")
    train(resumed)
    expected, actual = losses(records(one.work_dir)), losses(records(resumed.work_dir))
    assert len(expected["lr"]) > 20
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, rel=1e-5), name


def test_without_sync_bn_the_statistics_are_averaged(make, launch) -> None:
    """With weights that do not move, the first layer's running mean is linear in the samples: two
    processes' mean is that of one. The variance, over half the samples each, is not."""
    still = ("sync_bn=false", "optimizer.lr=1e-12", "total_epochs=1")
    two = make(*still, "data.samples_per_gpu=4", work_dir="two")
    run = launch(two, ranks=2)
    one = make(*still, work_dir="one")
    train(one)
    assert run.wait() == 0, run.text()
    states = [
        torch.load(Path(experiment.work_dir) / "latest.pth", weights_only=True)["state_dict"]
        for experiment in (one, two)
    ]
    name = next(name for name in states[0] if name.endswith("running_mean"))
    mean_of_one, mean_of_two = (state[name] for state in states)
    torch.testing.assert_close(mean_of_two, mean_of_one, rtol=1e-4, atol=1e-7)
