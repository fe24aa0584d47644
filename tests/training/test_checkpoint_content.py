"""Checkpoints with the right checksums from which nothing can be continued."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpose.errors import UserError
from sdpose.runner.train import train
from sdpose.training.checkpoint import CorruptCheckpointError, load_checkpoint, save_checkpoint
from sdpose.training.paths import POSITION

pytestmark = pytest.mark.slow

Checkpoint = dict[str, Any]
Spoil = Callable[[Checkpoint], object]


def meta(**changes: Any) -> Spoil:
    return lambda checkpoint: checkpoint["meta"].update(changes)


def spoil_weights(checkpoint: Checkpoint) -> None:
    next(t for t in checkpoint["state_dict"].values() if t.is_floating_point()).view(-1)[0] = (
        math.nan
    )


def spoil_moments(checkpoint: Checkpoint) -> None:
    checkpoint["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = math.inf


def only_format(checkpoint: Checkpoint) -> None:
    checkpoint["meta"] = {"format": checkpoint["meta"]["format"]}


SPOILT: dict[str, Spoil] = {
    "NaN weights": spoil_weights,
    "infinite moments": spoil_moments,
    "NaN loss": lambda c: c["usual_loss"].fill_(math.nan),
    "no weights": lambda c: c.pop("state_dict"),
    "weights of text": lambda c: c.update(state_dict={"a": "b"}),
    "optimizer of text": lambda c: c.update(optimizer="junk"),
    "empty optimizer": lambda c: c.update(optimizer={}),
    "optimizer of junk": lambda c: c["optimizer"].update(state={"x": [1]}),
    "moment of text": lambda c: c["optimizer"]["state"][0].update(exp_avg="x"),
    "format alone": only_format,
    "epoch of text": meta(epoch="x"),
    "epoch of a bool": meta(epoch=True),
    "iteration below 0": meta(iteration=-5),
    "iteration of another epoch": meta(iteration=10**9),
    "iteration_in_epoch": meta(iteration_in_epoch=10**9),
    "metrics without AP": meta(metrics={}),
    "NaN AP": meta(metrics={"AP": math.nan}),
    "metrics of text": meta(metrics="x"),
    "evaluated later": meta(evaluated_epoch=10**6),
    "sums of text": meta(sums={"loss": "x"}),
    "stopped by a list": meta(stopped=[]),
}


def test_the_newest_good_one_is_continued(
    make, assert_same_weights, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of these ended in a traceback, or in the same divergence for ever, or trained on from a
    wrong place."""
    undisturbed = train(make("total_epochs=3", "evaluation.interval=1", work_dir="undisturbed"))
    result = train(make("total_epochs=2", "evaluation.interval=1"))
    work_dir = result.last_checkpoint.parent
    kept = work_dir.parent / "kept"
    shutil.copytree(work_dir, kept)
    experiment = make("total_epochs=3", "evaluation.interval=1", "resume_from=auto")
    for name, spoil in SPOILT.items():
        shutil.rmtree(work_dir)
        shutil.copytree(kept, work_dir)
        checkpoint = torch.load(work_dir / "latest.pth", weights_only=True)
        spoil(checkpoint)
        save_checkpoint(work_dir / "latest.pth", checkpoint)
        with pytest.raises(CorruptCheckpointError):
            load_checkpoint(work_dir / "latest.pth")
        capsys.readouterr()
        if name in ("NaN weights", "iteration below 0"):  # the others go the same way
            ended = train(experiment)
            said = capsys.readouterr().out
            assert "skipped a damaged checkpoint: " in said, name
            assert f"continuing from {work_dir / 'epoch_2.pth'}: the end of epoch 2" in said, name
            assert_same_weights(undisturbed.last_checkpoint, ended.last_checkpoint)


def test_a_named_one_is_an_error_that_says_what_is_wrong(make) -> None:
    path = train(make("total_epochs=1")).last_checkpoint
    checkpoint = torch.load(path, weights_only=True)
    spoil_weights(checkpoint)
    named = path.with_name("named.pth")
    save_checkpoint(named, checkpoint)
    with pytest.raises(UserError, match=r"resume_from: damaged checkpoint: .*is not finite"):
        train(make("total_epochs=2", f"resume_from={named}", work_dir="other"))


def test_moments_of_another_model(make) -> None:
    path = train(make("total_epochs=1")).last_checkpoint
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    named = path.with_name("named.pth")
    save_checkpoint(named, checkpoint)
    with pytest.raises(UserError, match=r"the optimizer's exp_avg 0 is \(3,\)"):
        train(make("total_epochs=2", f"resume_from={named}", work_dir="other"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{bad",
        b"[]",
        b"{}",
        b'{"epoch": "x", "iteration": 1}',
        b'{"epoch": -1, "iteration": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_position_of_the_mirror_counts_as_absent(
    make, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "mirror"
    experiment = make("total_epochs=1", f"checkpoint_config.mirror={store}")
    work_dir = train(experiment).last_checkpoint.parent
    position = store / work_dir.name / POSITION
    good = position.read_bytes()
    position.chmod(0o644)
    position.write_bytes(content)
    shutil.rmtree(work_dir)
    capsys.readouterr()
    assert train(experiment).epochs == 1
    assert "fetched " in capsys.readouterr().out
    assert position.read_bytes() == good, "and it is made again"


def test_a_foreign_file_in_the_mirror_is_passed_over(
    make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "mirror"
    experiment = make("total_epochs=1", f"checkpoint_config.mirror={store}")
    work_dir = train(experiment).last_checkpoint.parent
    latest = store / work_dir.name / "latest.pth"
    latest.unlink()
    torch.save({"state_dict": {}}, latest)
    shutil.rmtree(work_dir)
    assert train(experiment).epochs == 1
    said = capsys.readouterr().out
    assert "skipped a damaged checkpoint: " in said
    assert "epoch_1.pth" in said
