"""Early stopping of the weaker trials of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.open_sweep import open_sweep
from sdpose.config import dump_experiment
from sdpose.runner.early_stopping import reason_to_stop, remove_records, rungs
from sdpose.runner.finished import finished_training
from sdpose.runner.train import train
from sdpose.sweeps import Trial, expand, load_sweep


def settings(folder: Path, min_epochs: int = 2, reduction_factor: int = 3) -> str:
    values = {
        "folder": str(folder),
        "min_epochs": min_epochs,
        "reduction_factor": reduction_factor,
    }
    return f"early_stopping={json.dumps(values)}"


def test_rungs_are_evaluations_before_the_last_epoch(make, tmp_path: Path) -> None:
    changes = (settings(tmp_path), "total_epochs=60")
    assert rungs(make(*changes, "evaluation.interval=5")) == [5, 10, 20, 55]
    assert rungs(make(*changes, "evaluation.interval=1")) == [2, 6, 18, 54]
    assert rungs(make()) == []


def test_one_of_three_goes_on(make, tmp_path: Path, logged: list[str]) -> None:
    """In the order of arrival; nobody waits, and a decision stands."""

    def arrives(name: str, ap: float, epoch: int = 2) -> bool:
        experiment = make(
            settings(tmp_path / "rungs"),
            f"exp_name={name}",
            "total_epochs=60",
            "evaluation.interval=1",
        )
        return not reason_to_stop(experiment, epoch, ap)

    assert [arrives("a", 0.1), arrives("b", 0.2)] == [True, True]  # too few to say
    assert not arrives("c", 0.05)
    assert arrives("d", 0.15)  # the second of four: one of three, rounded up
    assert not arrives("e", 0.12)
    assert not arrives("c", 0.05)  # resumed: the same again
    assert arrives("a", 0.1)  # even if it would be stopped now
    assert arrives("c", 0.3)  # trained again
    assert arrives("f", 0.0, epoch=3)  # no rung
    assert logged == []
    (tmp_path / "file").write_text("")
    there = make(settings(tmp_path / "file"), "total_epochs=60", "evaluation.interval=1")
    assert reason_to_stop(there, 2, 0.0) == ""
    assert "this trial goes on" in logged[0]


SWEEP = """
name: rates
base: {base}
grid: {{optimizer.lr: {rates}}}
early_stopping: {{min_epochs: 2, reduction_factor: 3}}
"""


def arrives(trial: Trial, ap: float) -> str:
    return reason_to_stop(trial.experiment, 2, ap)


def trials_of(folder: Path, rates: list[float], *overrides: str) -> list[Trial]:
    (folder / "rates.yaml").write_text(SWEEP.format(base=folder / "tiny.yaml", rates=rates))
    overrides = ("total_epochs=60", "evaluation.interval=1", *overrides)
    sweep = load_sweep(str(folder / "rates.yaml"))
    return expand(sweep, overrides, rungs=str(folder / "rungs"), work_dir=str(folder / "w"))


@pytest.mark.parametrize("change", ["a trial less", "other settings", "trained again"])
def test_records_of_an_earlier_sweep_stop_nobody(change: str, make, tmp_path: Path) -> None:
    make()  # writes tiny.yaml
    before = trials_of(tmp_path, [1e-3, 2e-3, 3e-3])
    assert [arrives(trial, 0.9 + n / 100) for n, trial in enumerate(before)] == ["", "", ""]
    if change == "a trial less":
        now = trials_of(tmp_path, [1e-3, 2e-3])
    elif change == "other settings":
        now = trials_of(tmp_path, [1e-3, 2e-3, 3e-3], "seed=5")
    else:
        now = trials_of(tmp_path, [1e-3, 2e-3, 3e-3])
        assert now == before, "resubmitted, it goes on"
        assert "place 3 of 3" in arrives(now[0], 0.6)
        open_sweep.python_func("rates", dump_experiment(now[0].experiment), overwrite=True)
    assert arrives(now[0], 0.6) == ""


def test_what_is_no_record_stays_and_counts_for_nothing(
    make, tmp_path: Path, logged: list[str]
) -> None:
    folder = tmp_path / "rungs/epoch_2"
    folder.mkdir(parents=True)
    for number, content in enumerate(['{"AP": NaN}', "{bad", "[]", '{"AP": "x"}', "", '{"AP": 2}']):
        (folder / f"{number}.json").write_text(content)
    experiment = make(settings(tmp_path / "rungs"), "total_epochs=60", "evaluation.interval=1")
    (tmp_path / "rungs/notes.txt").write_text("mine")
    assert reason_to_stop(experiment, 2, 0.5) == ""
    assert sum("is damaged, and does not count" in line for line in logged) == 6
    remove_records(experiment)
    assert list((tmp_path / "rungs").rglob("*.json")) == []
    assert (tmp_path / "rungs/notes.txt").is_file()


def test_a_stopped_training_is_complete(make, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "rungs"
    (folder / "epoch_1").mkdir(parents=True)
    for name in ("x", "y"):
        (folder / f"epoch_1/{name}.json").write_text(json.dumps({"AP": 1.0, "stopped": ""}))
    experiment = make(settings(folder, min_epochs=1), "evaluation.interval=1")
    result = train(experiment)
    assert (result.epochs, result.last_checkpoint.name) == (1, "epoch_1.pth")
    assert "place 3 of 3" in result.stopped
    assert "stopped early: AP 0.0000 after 1 epochs" in capsys.readouterr().out
    meta = torch.load(result.last_checkpoint, weights_only=True)["meta"]
    assert meta["stopped"] == result.stopped

    assert train(experiment) == result
    assert "is finished: nothing to train" in capsys.readouterr().out
    assert finished_training(experiment) == result
