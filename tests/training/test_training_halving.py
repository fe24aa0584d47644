"""Early stopping of the weaker trials of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sdpose.training import train
from sdpose.training.halving import reason_to_stop, rungs
from sdpose.training.result import finished_training


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


def test_one_of_three_goes_on(make, tmp_path: Path) -> None:
    """In the order of arrival; nobody waits, and a decision stands."""
    said: list[str] = []

    def arrives(name: str, ap: float, epoch: int = 2) -> bool:
        experiment = make(
            settings(tmp_path / "rungs"),
            f"exp_name={name}",
            "total_epochs=60",
            "evaluation.interval=1",
        )
        return not reason_to_stop(experiment, epoch, ap, said.append)

    assert [arrives("a", 0.1), arrives("b", 0.2)] == [True, True]  # too few to say
    assert not arrives("c", 0.05)
    assert arrives("d", 0.15)  # the second of four: one of three, rounded up
    assert not arrives("e", 0.12)
    assert not arrives("c", 0.05)  # resumed: the same again
    assert arrives("a", 0.1)  # even if it would be stopped now
    assert arrives("c", 0.3)  # trained anew
    assert arrives("f", 0.0, epoch=3)  # no rung
    assert said == []
    (tmp_path / "file").write_text("")
    there = make(settings(tmp_path / "file"), "total_epochs=60", "evaluation.interval=1")
    assert reason_to_stop(there, 2, 0.0, said.append) == ""
    assert "this trial goes on" in said[0]


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
