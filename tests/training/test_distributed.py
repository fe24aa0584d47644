"""Several real processes, on CPU."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch

from sdpose.runner.train import train


def losses(lines: list[dict]) -> dict[str, list[float]]:
    lines = [line for line in lines if line["mode"] == "train"]
    return {
        name: [line[name] for line in lines]
        for name in ("heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "grad_norm", "lr")
    }


def samples(text: str) -> list[list[int]]:
    """The annotation ids of every step, of all ranks together."""
    steps: dict[int, list[int]] = {}
    for step, ids in re.findall(r"samples of step (\d+) on rank \d+: \[(.*)\]", text):
        steps.setdefault(int(step), []).extend(int(one) for one in ids.split(","))
    return [sorted(ids) for _, ids in sorted(steps.items())]


def test_one_two_and_four_processes_train_the_same_model(make, launch, records) -> None:
    """The same global batches, sample by sample; the four are asked to stop in epoch 2, and a
    single process goes on.

    SGD: Adam divides by the gradient's size and so amplifies rounding.
    """
    common = ("optimizer={type: SGD, lr: 0.05}", "total_epochs=3", "evaluation.interval=10")
    experiments = {
        ranks: make(*common, f"data.samples_per_gpu={8 // ranks}", work_dir=f"of_{ranks}")
        for ranks in (1, 2, 4)
    }
    say = {"SAY_SAMPLES": 1}
    four = launch(experiments[4], ranks=4, environment=say)
    four.wait_for("Epoch [2][4/")
    four.processes[3].send_signal(signal.SIGTERM)  # one is asked, all stop at the same step
    assert four.wait() == 128 + signal.SIGTERM, four.text()
    assert re.search(r"stopped at epoch 2, iteration \d+/", four.text()), four.text()
    assert "4 processes, global batch 8" in four.text()
    assert re.search(r"on: .*SyncBN.*; off:", four.text())

    resumed = make(*common, "resume_from=auto", work_dir="of_4")
    before = len(four.text())
    one, two, rest = (
        launch(experiment, ranks=ranks, environment=say, pause=0)
        for experiment, ranks in [(experiments[1], 1), (experiments[2], 2), (resumed, 1)]
    )
    for run in (one, two, rest):
        assert run.wait() == 0, run.text()
    assert re.search(r"; off: .*SyncBN", one.text())

    expected = samples(one.text())
    assert len(expected) > 30
    assert samples(two.text()) == expected
    assert samples(four.text()[:before]) + samples(rest.text()[before:]) == expected
    curve = losses(records(experiments[1].work_dir))
    assert len(curve["lr"]) == len(expected)
    for experiment in (experiments[2], resumed):
        actual = losses(records(experiment.work_dir))
        for name, values in curve.items():
            assert actual[name] == pytest.approx(values, rel=1e-5), (experiment.work_dir, name)


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
