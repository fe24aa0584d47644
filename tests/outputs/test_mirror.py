"""Checkpoints that cannot be written or uploaded, and machines that begin with nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdpose.errors import UserError
from sdpose.outputs import mirror
from sdpose.outputs import rate_limited_warning as reminder
from sdpose.outputs import saver as saving
from sdpose.outputs.sink import Sink
from sdpose.outputs.tensorboard import TensorboardSink
from sdpose.outputs.text_log import TextSink
from sdpose.runner.finished import finished_training
from sdpose.runner.train import train
from sdpose.training import loop
from sdpose.training.events import TrainRecord

PRUNED = "checkpoint_config.max_keep_ckpts=1"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(saving, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "RETRY_SECONDS", 0.2)


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(".pth")}


def test_a_fresh_machine_continues_from_the_mirror(
    make, launch, tmp_path: Path, capsys, assert_same_weights
) -> None:
    """SIGTERM, and the disk is gone; then SIGKILL, the disk is gone again, and the newest object is
    damaged."""
    undisturbed = train(make(work_dir="undisturbed"))
    store = tmp_path / "mirror" / "run"
    experiment = make(PRUNED, f"checkpoint_config.mirror=file://{store.parent}")
    work_dir = Path(str(experiment.work_dir))

    first = launch(experiment)
    first.wait_for("Epoch [2][3/")
    first.signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM, first.text()
    shutil.rmtree(work_dir)
    said_before = len(first.text())
    assert {"latest.pth", "latest.json", "experiment.yaml", "epoch_1.pth"} <= {
        path.name for path in store.iterdir()
    }

    second = launch(experiment, pause=0.5)  # it is still in epoch 3 when epoch 2 is uploaded
    second.wait_for("Epoch [3][1/")
    end = time.monotonic() + 60
    while "epoch_1.pth" in checkpoints(store) and time.monotonic() < end:  # after epoch_2.pth came
        time.sleep(0.01)
    second.signal(signal.SIGKILL)
    second.wait()
    text = second.text()[said_before:]
    assert f"fetched {(store / 'latest.pth').as_uri()}" in text
    assert "continuing from" in text
    assert ": epoch 2, iteration " in text
    assert "epoch_1.pth" not in checkpoints(store)
    shutil.rmtree(work_dir)
    damaged = store / "latest.pth"
    content = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(content[: len(content) // 2])

    capsys.readouterr()
    final = train(experiment)
    output = capsys.readouterr().out
    assert f"skipped a damaged checkpoint: {damaged.as_uri()}" in output
    assert f"fetched {(store / 'epoch_2.pth').as_uri()}" in output
    assert_same_weights(undisturbed.last_checkpoint, final.last_checkpoint)
    assert final.best_metrics == undisturbed.best_metrics
    assert final.best_checkpoint is not None

    # All of it is there, and nothing that was replaced: another machine reads the result there.
    assert checkpoints(store) == checkpoints(work_dir)
    assert checkpoints(store) == {"latest.pth", "epoch_3.pth", final.best_checkpoint.name}
    assert list(store.glob("*.log"))
    assert [path.name for path in work_dir.iterdir() if "tmp" in path.name] == []
    shutil.rmtree(work_dir)
    found = finished_training(experiment)
    assert found.best_metrics == final.best_metrics
    assert found.best_checkpoint is not None
    assert found.best_checkpoint.is_file()

    # --overwrite removes the mirror's results, too.
    again = make(PRUNED, f"checkpoint_config.mirror=file://{store.parent}", "total_epochs=1")
    train(again, overwrite=True)
    assert checkpoints(store) == {"latest.pth", "epoch_1.pth", "best_AP_epoch_1.pth"}


def test_a_work_dir_that_is_a_uri(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store" / "tiny"
    experiment = make("total_epochs=1").model_copy(update={"work_dir": store.as_uri()})
    result = train(experiment)
    local = Path("work_dirs/file", *store.parts[1:])
    assert result.last_checkpoint == local / "epoch_1.pth"
    assert checkpoints(store) == checkpoints(local)
    shutil.rmtree("work_dirs")
    assert train(experiment).best_metrics == result.best_metrics


@pytest.mark.usefixtures("impatient")
def test_a_dead_mirror_is_told_and_fails_the_run_at_its_end(
    make, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where its folder should be; then it is mended and the same command given again."""
    told = threading.Event()
    trouble, finish_epoch = reminder.Reminder.trouble, loop._finish_epoch

    def tell(self: reminder.Reminder, text: str) -> None:
        trouble(self, text)
        told.set()

    def finish_epoch_slowly(run: loop.Run) -> None:  # or two epochs are over before one upload
        finish_epoch(run)
        told.wait(30)

    monkeypatch.setattr(reminder.Reminder, "trouble", tell)
    monkeypatch.setattr(loop, "_finish_epoch", finish_epoch_slowly)
    place = tmp_path / "mirror"
    place.write_text("")
    experiment = make(f"checkpoint_config.mirror={place}", "total_epochs=2")
    with pytest.raises(UserError, match="could not keep what it promised") as failure:
        train(experiment)
    assert "epoch_2.pth" in str(failure.value)
    output = capsys.readouterr().out
    assert output.index("warning: no upload to") < output.index("Epoch [2]")
    assert "Training goes on" in output
    assert "epoch_2.pth" in checkpoints(Path(str(experiment.work_dir)))

    place.unlink()
    assert train(experiment).epochs == 2
    assert "nothing to train" in capsys.readouterr().out
    assert checkpoints(place / "run") == checkpoints(Path(str(experiment.work_dir)))


@contextlib.contextmanager
def full_disk(room: int = 50_000) -> Iterator[None]:
    """The kernel refuses to write more than so many bytes into a file, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_stays_full_fails_the_run_at_its_end(make, capsys) -> None:
    experiment = make("total_epochs=2")
    with full_disk(), pytest.raises(UserError, match="could not keep what it promised"):
        train(experiment)
    output = capsys.readouterr().out
    assert "warning: no checkpoint: cannot write" in output
    assert "Epoch [2]" in output
    assert list(Path(str(experiment.work_dir)).glob("*.pth*")) == []
    assert train(experiment).epochs == 2


def test_a_disk_that_was_full_for_a_while(make, launch, records, assert_same_weights) -> None:
    """Neither a checkpoint nor a log can be written for some steps."""
    undisturbed = train(make(work_dir="undisturbed"))
    hooks = "log_config.hooks=[TextLoggerHook, TensorboardLoggerHook]"
    run = launch(make(hooks, "checkpoint_config.interval_minutes=1e-4"))
    run.wait_for("Epoch [1][3/")
    process = psutil.Process(run.processes[0].pid)
    limits = process.rlimit(psutil.RLIMIT_FSIZE)
    (log,) = run.work_dir.glob("*[0-9].log")
    # What it prints is shorter than its log, by the experiment: the warnings go through.
    process.rlimit(psutil.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    run.wait_for("warning: no checkpoint: cannot write")
    process.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert run.wait() == 0, run.text()
    assert f"warning: cannot write {log}: File too large" in run.text()
    assert "checkpoints can be written again" in log.read_text()
    assert checkpoints(run.work_dir) == checkpoints(undisturbed.last_checkpoint.parent)
    assert_same_weights(undisturbed.last_checkpoint, run.work_dir / "epoch_3.pth")
    lines = records(run.work_dir)
    assert [line.get("loss") for line in lines] == [
        line.get("loss") for line in records(undisturbed.last_checkpoint.parent)
    ]
    assert log.read_text().count("data_time: ") == sum(line["mode"] == "train" for line in lines)


def test_logs_lose_nothing_when_the_disk_was_full(make, logged: list[str]) -> None:
    work_dir = Path(str(make().work_dir))
    work_dir.mkdir()
    with full_disk(200):
        sinks: list[Sink] = [
            TextSink(make(), work_dir, "20261126_120000", ""),
            TensorboardSink(make(), work_dir / "tf_logs"),
        ]
        for iteration in range(1, 5):
            for sink in sinks:
                sink.train(record(iteration))
    assert sum("warning: cannot write" in text for text in logged) == 3  # once for each file
    for sink in sinks:
        sink.train(record(5))
        sink.close("FINISHED", None, 0.0)
    assert sum("can be written again; nothing is missing" in text for text in logged) == 3
    lines = (work_dir / "20261126_120000.log.json").read_text().splitlines()[1:]
    assert [json.loads(line)["iter"] for line in lines] == [1, 2, 3, 4, 5]
    assert (work_dir / "20261126_120000.log").read_text().count("Epoch [1]") == 5
    points = EventAccumulator(str(work_dir / "tf_logs")).Reload().Scalars("train/loss")
    assert [(point.step, point.value) for point in points] == [(i, i / 2) for i in range(1, 6)]


def record(iteration: int) -> TrainRecord:
    return TrainRecord(
        epoch=1,
        iteration_in_epoch=iteration,
        iterations_per_epoch=5,
        iteration=iteration,
        lr=1e-3,
        eta=0.0,
        time=0.1,
        data_time=0.0,
        memory=1,
        samples_per_second=80.0,
        values={"loss": iteration / 2},
    )
