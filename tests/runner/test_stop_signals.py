"""Runs that are killed or asked to stop, in processes of their own; and what is left of them."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdpose.runner import stop_signals as interrupt
from sdpose.runner.train import train
from sdpose.signals import REPEAT_SECONDS

ALL_HOOKS = "log_config.hooks=[TextLoggerHook, TensorboardLoggerHook, MlflowLoggerHook]"


SAVED_OFTEN = "checkpoint_config.interval_minutes=1e-4"


def test_killed_and_resumed_is_bit_identical(make, launch, records, assert_same_weights) -> None:
    """SIGKILL in the middle of epoch 2, and again of epoch 3, with a loader process; then to the
    end without one."""
    undisturbed = make(work_dir="undisturbed")
    train(undisturbed)
    killed = make(work_dir="killed")
    for epoch in (2, 3):
        run = launch(
            make("data.workers_per_gpu=1", "resume_from=auto", SAVED_OFTEN, work_dir="killed")
        )
        run.wait_for(f"Epoch [{epoch}][4/")
        children = run.processes[0].children(recursive=True)
        run.signal(signal.SIGKILL)
        run.wait()
        _, left = psutil.wait_procs(children, timeout=15)
        assert left == []
    final = train(make("resume_from=auto", work_dir="killed"))
    # The second start went on inside an epoch, from a checkpoint written while training went on.
    assert re.search(r"continuing from .*: epoch 2, iteration \d", run.text()), run.text()
    assert_same_weights(Path(undisturbed.work_dir) / "epoch_3.pth", final.last_checkpoint)

    # Every step's loss equals the undisturbed run's; steps that were lost came twice.
    expected = {
        (line["epoch"], line["iter"]): line["loss"]
        for line in records(undisturbed.work_dir)
        if line["mode"] == "train"
    }
    lines = [line for line in records(killed.work_dir) if line["mode"] == "train"]
    assert {(line["epoch"], line["iter"]) for line in lines} == set(expected)
    assert all(line["loss"] == expected[line["epoch"], line["iter"]] for line in lines)
    assert len(lines) > len(expected)
    assert [p.name for p in Path(killed.work_dir).iterdir() if "tmp" in p.name] == []


def test_sigterm_saves_the_step_and_mlflow_goes_on(
    make, launch, records, assert_same_weights
) -> None:
    """Stopped by a SIGTERM to the whole process group, as Ctrl-C and torchrun send it, while a
    loader process works; the same command again; with all hooks."""
    undisturbed = train(make(work_dir="undisturbed"))
    experiment = make(ALL_HOOKS, "data.workers_per_gpu=1", work_dir="stopped")
    work_dir = Path(experiment.work_dir)
    database = work_dir.parent / "work_dirs/mlflow.db"
    first = launch(experiment)
    first.wait_for("Epoch [2][3/")
    os.killpg(first.processes[0].pid, signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM, first.text()
    stopped = re.search(r"stopped at epoch 2, iteration (\d+)/", first.text())
    assert stopped, first.text()
    assert int(stopped[1]) >= 3
    assert f"sdpose train {work_dir}/experiment.yaml --resume-from auto" in first.text()
    for noise in ("Traceback", "alembic", "Warning"):
        assert noise not in first.text()
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]

    second = launch(experiment)
    assert second.wait() == 0, second.text()
    assert (
        f"continuing from {work_dir}/latest.pth: epoch 2, iteration {stopped[1]}" in second.text()
    )
    assert_same_weights(undisturbed.last_checkpoint, work_dir / "epoch_3.pth")

    client = MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs(["1"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert (work_dir / "mlflow_run_id").read_text().strip() == run.info.run_id
    memory = "system/system_memory_usage_megabytes"
    for metric, steps in [
        ("train/heatmap_loss", [1, 2, 3]),
        ("val/AP_50", [2, 3]),
        (memory, [1, 2, 3]),
    ]:
        history = client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in history] == steps
    assert run.data.params["optimizer.lr"] == "0.001"
    assert set(run.data.tags) >= {"experiment_digest", "dataset_digest", "mlflow.source.git.commit"}
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = {str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()}
    assert "experiment.yaml" in files
    assert any(re.fullmatch(r"checkpoints/best_AP_epoch_\d\.pth", name) for name in files)
    assert sum(name.startswith("logs/") for name in files) == 4
    points = EventAccumulator(str(work_dir / "tf_logs")).Reload().Scalars("train/heatmap_loss")
    lines = [line for line in records(work_dir) if line["mode"] == "train"]
    assert [(point.step, point.value) for point in points] == [
        (n, pytest.approx(line["heatmap_loss"], rel=1e-6)) for n, line in enumerate(lines, start=1)
    ]


def test_ctrl_c_outside_of_a_step(make, launch) -> None:
    """While the images are checked, or a little later; there is nothing to save."""
    run = launch(make())
    while not (run.work_dir / "experiment.yaml").exists():
        time.sleep(0.005)
    run.signal(signal.SIGINT)
    assert run.wait() == 128 + signal.SIGINT
    assert "Traceback" not in run.text()


# Rounds of pbkdf2; a fast machine does three million in a second.
SECONDS, FOR_EVER = 3_000_000, 2 * 10**9
SLOW_STEP = """
import hashlib, importlib.util, signal, sys
# The module alone: its package would import torch.
spec = importlib.util.spec_from_file_location("interrupt", sys.argv[1])
interrupt = sys.modules["interrupt"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupt)
interrupt.GRACE_SECONDS = {signal.SIGINT: float(sys.argv[2]), signal.SIGTERM: 600.0}
with interrupt.StopSignals(speak=True) as stop:
    with stop.deferred():
        print("in the step", flush=True)
        # Like a long operation of torch: no bytecode runs, and signals do not cut it short.
        hashlib.pbkdf2_hmac("sha256", b"", b"", %d)
        print("the step is done:", stop.received, flush=True)
    print("never", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "rounds", "grace", "expected"),
    [
        ([signal.SIGINT], SECONDS, 600, "the step is done: 2"),
        ([signal.SIGINT], FOR_EVER, 1, "time is up"),
        ([signal.SIGTERM, signal.SIGINT], FOR_EVER, 600, "asked twice"),
        ([signal.SIGTERM, signal.SIGTERM], SECONDS, 600, "the step is done: 15"),
    ],
    ids=["finishes", "deadline", "Ctrl-C after a request", "launchers ask twice"],
)
def test_a_long_step(
    signals: list[signal.Signals], rounds: int, grace: float, expected: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEP % rounds, interrupt.__file__, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "in the step\n"
    process.send_signal(signals[0])
    assert process.stdout.readline() == "\n"
    assert "finishing the step" in process.stdout.readline()
    for number in signals[1:]:
        time.sleep(2 * REPEAT_SECONDS)  # closer together they would be one request
        process.send_signal(number)
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 128 + signals[0]
    assert expected in output
    assert "never" not in output
