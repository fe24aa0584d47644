"""`sdpose doctor --steps 10`: the first steps on the dataset are tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdpose.checks.first_steps import try_steps
from sdpose.checks.report import Report
from sdpose.config import Experiment, load_experiment
from sdpose.tools.synthetic.dataset import write_synthetic_coco


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_synthetic_coco(tmp_path / "coco", num_train=6, num_val=1, seed=0)
    changes = ("samples_per_gpu=2", "workers_per_gpu=0", "lr_config.warmup=null", "lr=5e-3")
    return load_experiment("quickstart", changes, data_root=str(tmp_path / "coco"))


def test_losses_are_reported(experiment: Experiment) -> None:
    report = Report("doctor")
    try_steps(experiment, 10, report)  # more than an epoch
    assert report.problems == []
    [line] = report.fine
    found = re.fullmatch(r"steps: 10 on the dataset, loss (\S+) -> (\S+), [\d.]+ s", line)
    assert found
    assert float(found[2]) < float(found[1])


def test_a_loss_that_is_not_finite_is_a_problem(experiment: Experiment) -> None:
    wild = experiment.model_copy(
        update={"optimizer": experiment.optimizer.model_copy(update={"type": "SGD", "lr": 1e30})}
    )
    report = Report("doctor")
    try_steps(wild, 10, report)
    [problem] = report.problems
    assert re.match(r"steps: .*loss.* not finite in step \d", problem.what)
    assert "lower optimizer.lr" in problem.remedy


def test_a_photo_that_cannot_be_read_is_named(experiment: Experiment) -> None:
    for photo in Path(experiment.data_root, "train2017").iterdir():
        photo.write_bytes(b"no picture")
    report = Report("doctor")
    try_steps(experiment, 1, report)
    assert "train2017" in report.problems[0].what
