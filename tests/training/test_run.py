"""Whole small runs in this process."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpose.config import parse_experiment
from sdpose.errors import UserError
from sdpose.runner.train import train
from sdpose.training import loop
from sdpose.training.checkpoint import save_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"


def test_a_run_leaves_what_users_know(make, records, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = make("checkpoint_config.max_keep_ckpts=2", "log_config.interval=10")
    result = train(experiment)
    work_dir = Path(experiment.work_dir)
    names = {path.name for path in work_dir.iterdir()}
    assert names >= {"epoch_2.pth", "epoch_3.pth", "latest.pth", "experiment.yaml"}
    assert not names & {"epoch_1.pth", "mlflow_run_id", "tf_logs"}
    assert [name for name in names if name.startswith("best")] == [result.best_checkpoint.name]
    assert result.last_checkpoint == work_dir / "epoch_3.pth"
    assert (result.epochs, result.mlflow_run_id) == (3, None)
    assert parse_experiment((work_dir / "experiment.yaml").read_text()) == experiment

    best = torch.load(result.best_checkpoint, weights_only=True)
    assert best["meta"]["metrics"] == result.best_metrics
    assert set(result.best_metrics) >= {"AP", "AP .5", "AR (L)"}
    last = torch.load(work_dir / "latest.pth", weights_only=True)["meta"]
    assert (last["epoch"], last["evaluated_epoch"], last["format"]) == (3, 3, "sdpose/1")

    lines = records(work_dir)
    assert [line["epoch"] for line in lines if line["mode"] == "val"] == [2, 3]
    steps = [line for line in lines if line["mode"] == "train"]
    per_epoch = last["iteration"] // 3
    assert [line["iter"] for line in steps if line["epoch"] == 1] == [10, per_epoch]
    assert list(steps[0]) == [
        *("mode", "epoch", "iter", "lr", "memory", "data_time"),
        *("heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "acc_pose", "loss", "grad_norm"),
        *("time", "samples_per_second"),
    ]
    printed = capsys.readouterr().out
    (log,) = work_dir.glob("*[0-9].log")
    line = rf"Epoch \[1\]\[10/{per_epoch}\]\tlr: 1\.000e-03, eta: 0:00:\d\d, time: .*grad_norm:"
    for text in (printed, log.read_text()):
        assert re.search(line, text)
        assert "boxes: ground truth" in text
    assert "\x1b" not in printed  # no colours: not a terminal
    assert f"1 process, global batch 8, {per_epoch} iterations/epoch" in printed

    # Once more: nothing to do, the same result.
    before = (work_dir / "latest.pth").stat()
    assert train(experiment) == result
    assert "is finished" in capsys.readouterr().out
    assert (work_dir / "latest.pth").stat().st_size == before.st_size

    # More epochs of it, asked for; the first ones are not trained again.
    longer = make("total_epochs=4", "resume_from=auto", "log_config.interval=10")
    assert train(longer).epochs == 4
    output = capsys.readouterr().out
    assert "total_epochs: 3 -> 4" in output
    assert "Epoch [3]" not in output
    assert "Epoch [4]" in output


def test_epochs_without_a_checkpoint_of_their_own(make) -> None:
    experiment = make(
        "checkpoint_config={interval: 2, save_last: false}",
        "evaluation={interval: 10, save_best: null}",
        "total_epochs=3",
    )
    result = train(experiment)
    names = {path.name for path in Path(experiment.work_dir).glob("*.pth")}
    assert names == {"epoch_2.pth", "latest.pth"}
    assert (result.best_checkpoint, result.last_checkpoint.name) == (None, "latest.pth")
    assert "AP" in result.best_metrics  # the last epoch is evaluated all the same


def test_divergence_stops_and_keeps_the_checkpoint_before(make) -> None:
    """A learning rate that is fine in epoch 1 and absurd from epoch 2 on."""
    experiment = make(
        "optimizer={type: SGD, lr: 1e-3}",
        "optimizer_config.grad_clip=null",
        "lr_config={policy: step, step: [1], gamma: 1e30, warmup: null}",
        "log_config.interval=3",
    )
    with pytest.raises(UserError) as stop:
        train(experiment)
    message = str(stop.value)
    match = re.search(
        r"diverged: .* in epoch 2, iteration (\d+) \(step (\d+) of the run\)", message
    )
    assert match
    assert int(match[1]) <= 3  # found at the log line, but the step is named
    assert "learning rate: 1e+27" in message
    ids = re.search(r"annotation ids\): ([\d, ]+)", message)
    assert ids
    assert len(ids[1].split(",")) == 8
    work_dir = Path(experiment.work_dir)
    checkpoint = torch.load(work_dir / "latest.pth", weights_only=True)
    assert checkpoint["meta"]["epoch"] == 1
    assert all(bool(t.isfinite().all()) for t in checkpoint["state_dict"].values())
    (log,) = work_dir.glob("*[0-9].log")
    assert "diverged" in log.read_text()


def test_load_from_takes_the_weights_only(make, records, capsys) -> None:
    first = train(make("total_epochs=1", work_dir="first"))
    experiment = make(
        "total_epochs=1", f"load_from={first.last_checkpoint}", "optimizer.lr=1e-12", work_dir="b"
    )
    second = train(experiment)
    loaded, tuned = (
        torch.load(path, weights_only=True)
        for path in (first.last_checkpoint, second.last_checkpoint)
    )
    assert tuned["meta"]["iteration"] == loaded["meta"]["iteration"]  # counted from 0 again
    said = f"load_from: {first.last_checkpoint}: {len(loaded['state_dict'])} tensors loaded ("
    (log,) = Path(experiment.work_dir).glob("*[0-9].log")
    for text in (log.read_text(), "".join(capsys.readouterr())):
        assert text.count(said) == 1
    for name, parameter in loaded["state_dict"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tuned["state_dict"][name], parameter, rtol=0, atol=1e-6)
    assert records(experiment.work_dir)[0]["epoch"] == 1


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.keypoint_head.tokenpose_cfg.dim=32", "is of another model: size mismatch"),
        ("optimizer.type=SGD", "was trained with Adam and cannot be continued with SGD"),
        ("data_root=nowhere", "data_root is not a folder"),
    ],
)
def test_a_run_that_cannot_go_on_changes_nothing(make, change: str, message: str) -> None:
    first = train(make("total_epochs=1"))
    before = state_of(first.last_checkpoint.parent)
    elsewhere = shutil.copy(first.last_checkpoint, first.last_checkpoint.parents[1] / "copy.pth")
    for resumed, overwrite in (("auto", False), (elsewhere, True)):
        with pytest.raises(UserError, match=message):
            train(make(f"resume_from={resumed}", change), overwrite=overwrite)
        assert state_of(first.last_checkpoint.parent) == before


def test_weights_that_do_not_fit_cost_no_results(make) -> None:
    first = train(make("total_epochs=1"))
    before = state_of(first.last_checkpoint.parent)
    small = shutil.copy(first.last_checkpoint, first.last_checkpoint.parents[1] / "small.pth")
    with pytest.raises(UserError, match="does not fit the model"):
        train(
            make(f"load_from={small}", "model.keypoint_head.tokenpose_cfg.dim=32"), overwrite=True
        )
    assert state_of(first.last_checkpoint.parent) == before


def test_other_data_does_not_go_on_silently(
    make, dataset: Path, tmp_path: Path, records, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the persons are taken out while a run is in the last quarter of an epoch."""
    smaller = shutil.copytree(dataset, tmp_path / "smaller")
    annotations = smaller / make().data.train.ann_file
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][::2]
    annotations.write_text(json.dumps(content))

    work_dir = train(make("total_epochs=1")).last_checkpoint.parent
    meta = torch.load(work_dir / "latest.pth", weights_only=True)["meta"]
    inside = {"epoch": 0, "iteration_in_epoch": 9, "iteration": 9, "evaluated_epoch": 0}
    checkpoint = torch.load(work_dir / "latest.pth", weights_only=True)
    for path in work_dir.glob("*.pth"):
        path.unlink()
    save_checkpoint(work_dir / "latest.pth", checkpoint | {"meta": meta | inside})
    before = state_of(work_dir)
    with pytest.raises(
        UserError, match=r"latest\.pth was trained on other data: the dataset's dig"
    ):
        train(make("total_epochs=1", f"data_root={smaller}"))
    assert state_of(work_dir) == before

    capsys.readouterr()
    train(make("total_epochs=2", f"data_root={smaller}", "resume_from=auto"))
    said = capsys.readouterr().out
    assert "was trained on other data" in said
    now = re.search(r"epochs had 12 iterations of 8 samples and have (\d+) of 8 now", said)
    assert now
    meta = torch.load(work_dir / "latest.pth", weights_only=True)["meta"]
    assert meta["iteration"] == 2 * int(now[1]) < 2 * 9
    epochs = [line["epoch"] for line in records(work_dir) if line["mode"] == "val"]
    assert epochs[-1] == 2


@pytest.mark.parametrize("key", ["work_dir", "checkpoint_config.out_dir"])
def test_results_that_cannot_be_written_are_an_error_at_once(
    make, tmp_path: Path, key: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*file.*: Not a directory"):
        train(make(f"{key}={tmp_path}/file/results"))


def test_another_global_batch_goes_on_where_the_samples_are(make, records) -> None:
    first = make("total_epochs=2", work_dir="run")
    train(first)
    again = make("total_epochs=3", "resume_from=auto", "data.samples_per_gpu=16", work_dir="run")
    train(again)
    steps = [line for line in records(again.work_dir) if line["mode"] == "train"]
    before = max(line["iter"] for line in steps if line["epoch"] == 2)
    after = [line["iter"] for line in steps if line["epoch"] == 3]
    assert after == list(range(1, math.ceil(before / 2) + 1))


def test_loss_curve_is_golden(make, records, coco_mini: Path, monkeypatch) -> None:
    """50 steps on real photos: a change of the model, the losses, the augmentation, the order of
    samples or the schedule shows here. In float64: what CPUs do differently is far below what any
    such change does, though Adam's first steps amplify it. To renew the numbers after a change that
    is meant: SDPOSE_RENEW_GOLDEN=1.
    """
    experiment = make(
        f"data_root={coco_mini}",
        "data.samples_per_gpu=8",
        "total_epochs=5",
        "evaluation.interval=100",
        "lr_config={policy: cosine, warmup_iters: 10}",
    )

    def in_float64(model: Any, loss: Any, optimizer: Any, batches: Any, **options: Any) -> Any:
        batches = [
            {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
            for batch in batches
        ]
        return train_step(model, loss, optimizer, batches, **options)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", in_float64)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        train(experiment)
    finally:
        torch.set_default_dtype(before)
    names = ("heatmap_loss", "vis_dist_loss", "kpt_dist_loss", "grad_norm")
    steps = [line for line in records(experiment.work_dir) if line["mode"] == "train"][:50]
    curve: dict[str, Any] = {name: [step[name] for step in steps] for name in names}
    if os.environ.get("SDPOSE_RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert len(curve["heatmap_loss"]) == 50
    for name in names:
        assert curve[name] == pytest.approx(golden[name], rel=1e-6)


def test_mlflow_and_tensorboard_absent(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules cannot be imported; sdpose can, and says what to do."""
    for module, hook in [
        ("mlflow", "MlflowLoggerHook"),
        ("torch.utils.tensorboard", "TensorboardLoggerHook"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=f"remove {hook}"):
            train(make(f"log_config.hooks=[{hook}]"))
