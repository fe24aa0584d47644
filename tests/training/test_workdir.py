from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs import work_dir_lock as hold
from sdpose.outputs.work_dir_lock import locked
from sdpose.runner.work_dir import (
    claim,
    find_start,
    open_mirror,
    start_anew,
)
from sdpose.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from sdpose.training.paths import run_paths
from sdpose.training.resume import Start


def put_checkpoint(folder: str | Path, name: str, epoch: int) -> Path:
    path = Path(folder) / name
    meta = {"format": FORMAT, "epoch": epoch, "iteration": 7 * epoch}
    optimizer = {"state": {}, "param_groups": []}
    save_checkpoint(path, {"state_dict": {}, "optimizer": optimizer, "meta": meta})
    return path


def begin(experiment: Experiment, *, overwrite: bool = False) -> Start:
    if overwrite:
        start = start_anew(experiment)
    else:
        start = find_start(experiment, *open_mirror(experiment))
    return claim(experiment, start, overwrite=overwrite)


def epoch_of_start(start: Start) -> int:
    assert start.checkpoint is not None
    return start.checkpoint["meta"]["epoch"]


def test_the_same_experiment_continues_by_itself(make, logged: list[str]) -> None:
    first = begin(make())
    assert (first.checkpoint, first.same_run) == (None, False)
    put_checkpoint(make().work_dir, "latest.pth", 2)
    again = begin(make("data_root=elsewhere"))
    assert (epoch_of_start(again), again.same_run) == (2, True)
    assert logged == []


def test_another_experiments_results_are_refused(make, logged: list[str]) -> None:
    begin(make())
    other = make("optimizer.lr=0.5", "data.samples_per_gpu=4")
    assert begin(other).checkpoint is None  # no results yet
    put_checkpoint(other.work_dir, "epoch_3.pth", 3)
    with pytest.raises(UserError) as refusal:
        begin(make())
    for part in (
        "optimizer.lr: 0.5 -> 0.001",
        "data.samples_per_gpu: 4 -> 8",
        "--work-dir",
        "--resume-from auto",
        "--overwrite",
    ):
        assert part in str(refusal.value)
    assert logged == []

    start = begin(make("resume_from=auto"))
    assert (epoch_of_start(start), start.same_run) == (3, False)
    assert any("optimizer.lr: 0.5 -> 0.001" in line for line in logged)


def test_checkpoints_without_an_experiment_are_refused(make) -> None:
    put_checkpoint(make().work_dir, "epoch_3.pth", 3)
    with pytest.raises(UserError, match="unknown origin"):
        begin(make())


def test_overwrite_removes_our_files_only(make) -> None:
    experiment = make("checkpoint_config.out_dir=" + make().work_dir + "/weights")
    work_dir, folder = Path(experiment.work_dir), run_paths(experiment).checkpoints
    assert folder == work_dir / "weights" / work_dir.name
    begin(experiment)
    ours = ["20260101_120000.log", "20260101_120000.log.json", "summary.json", "mlflow_run_id"]
    theirs = ["notes.txt", "my_model.pth", "tf_logs/notes.txt"]
    (work_dir / "tf_logs").mkdir()
    for name in [*ours, *theirs, "tf_logs/events.out.tfevents.1"]:
        (work_dir / name).write_text("x")
    for name in ("epoch_1.pth", "latest.pth", "best_AP_epoch_1.pth", ".epoch_2.pth.tmp"):
        put_checkpoint(folder, name, 1)
    assert begin(experiment, overwrite=True).checkpoint is None
    left = {str(p.relative_to(work_dir)) for p in work_dir.rglob("*") if p.is_file()}
    assert left == {*theirs, "experiment.yaml"}


@pytest.mark.parametrize("key", ["resume_from", "load_from", "model.pretrained"])
def test_overwrite_keeps_what_the_new_run_begins_with(make, key: str) -> None:
    begin(make())
    source = put_checkpoint(make().work_dir, "epoch_3.pth", 3)
    with pytest.raises(
        UserError, match=f"--overwrite would remove .*epoch_3.pth, which {key} names"
    ):
        begin(make(f"{key}={source}"), overwrite=True)
    assert source.exists()


def test_resume_from_a_file(make, tmp_path: Path, logged: list[str]) -> None:
    elsewhere = put_checkpoint(tmp_path / "elsewhere", "epoch_5.pth", 5)
    resumed = make(f"resume_from={elsewhere}", "load_from=weights.pth")
    assert epoch_of_start(begin(resumed)) == 5
    assert ["load_from" in line for line in logged] == [True]
    # The job is killed and started again with the same command: it does not fall back to epoch 5.
    put_checkpoint(resumed.work_dir, "latest.pth", 8)
    assert epoch_of_start(begin(resumed)) == 8
    # Asked for another file, it goes back, and what was newer is no longer the newest.
    back = put_checkpoint(resumed.work_dir, "epoch_6.pth", 6)
    changed = resumed.model_copy(update={"resume_from": str(back)})
    assert epoch_of_start(begin(changed)) == 6
    assert load_checkpoint(Path(resumed.work_dir) / "latest.pth")["meta"]["epoch"] == 6


def test_resume_from_nothing(make, tmp_path: Path, logged: list[str]) -> None:
    assert begin(make("resume_from=auto")).checkpoint is None
    assert "starting from the beginning" in logged[0]
    with pytest.raises(UserError, match=r"cannot read nowhere\.pth"):
        begin(make("resume_from=nowhere.pth"))
    damaged = put_checkpoint(tmp_path, "damaged.pth", 1)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        begin(make(f"resume_from={damaged}"))
    torch.save({"state_dict": {}}, damaged)
    with pytest.raises(UserError, match="--load-from"):
        begin(make(f"resume_from={damaged}"))


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "LOCK_WAIT_SECONDS", 0.1)
    with locked(tmp_path / "run"):
        with pytest.raises(UserError, match="in use"), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_run_of_the_work_dir_is_refused(make, launch) -> None:
    first = launch(make("total_epochs=1"), pause=1.5)
    first.wait_for("Epoch [1][2/")
    said = len(first.text())
    second = launch(make("total_epochs=1"))
    assert second.wait() == 2
    assert "is in use by another training run" in second.text()[said:]
    assert first.wait() == 0


def test_an_experiment_of_an_older_schema_is_compared(make) -> None:
    experiment = make()
    begin(experiment)
    put_checkpoint(experiment.work_dir, "latest.pth", 1)
    path = Path(experiment.work_dir) / "experiment.yaml"
    path.write_text(path.read_text() + "retired_key: 3\n")
    with pytest.raises(UserError, match="retired_key: 3 -> absent"):
        begin(experiment)
    path.write_text("exp_name: [")
    with pytest.raises(UserError, match="exp_name: absent -> tiny"):
        begin(experiment)
