"""Runs that are killed or asked to stop, in processes of their own; and what is left of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from sdpose.training import train

ALL_HOOKS = "log_config.hooks=[TextLoggerHook, TensorboardLoggerHook, MlflowLoggerHook]"


def test_killed_and_resumed_is_bit_identical(make, launch, records, assert_same_weights) -> None:
    """SIGKILL in the middle of epoch 2, and again in epoch 3; with a loader process."""
    whole = train(make(work_dir="whole"))
    experiment = make(work_dir="killed")
    with_worker = make("data.workers_per_gpu=1", work_dir="killed")
    for epoch in (2, 3):
        run = launch(experiment)
        run.wait_for(f"Epoch [{epoch}][3/")
        children = psutil.Process(run.process.pid).children(recursive=True)
        run.process.kill()
        run.wait()
        psutil.wait_procs(children, timeout=15)
        assert not [child for child in children if child.is_running()]
    run = launch(experiment)
    assert run.wait() == 0, run.text()
    assert run.text().count("continuing from") == 2
    assert_same_weights(whole.last_checkpoint, Path(experiment.work_dir) / "epoch_3.pth")
    assert with_worker.data.workers_per_gpu == 1

    # Every step's loss equals the uninterrupted run's; steps that were lost came twice.
    expected = {
        (r["epoch"], r["iter"]): r["loss"]
        for r in records(make(work_dir="whole").work_dir)
        if r["mode"] == "train"
    }
    lines = [r for r in records(experiment.work_dir) if r["mode"] == "train"]
    assert {(r["epoch"], r["iter"]) for r in lines} == set(expected)
    assert all(r["loss"] == expected[r["epoch"], r["iter"]] for r in lines)
    leftovers = [p.name for p in Path(experiment.work_dir).iterdir() if "tmp" in p.name]
    assert leftovers == []


def test_sigterm_saves_the_step_and_mlflow_goes_on(make, launch, assert_same_weights) -> None:
    whole = train(make(work_dir="whole"))
    experiment = make(ALL_HOOKS, "data.workers_per_gpu=1", work_dir="stopped")
    work_dir = Path(experiment.work_dir)
    first = launch(experiment)
    first.wait_for("Epoch [2][3/")
    # To the whole group, as Ctrl-C and torchrun send it: loader processes must go on meanwhile.
    os.killpg(first.process.pid, signal.SIGTERM)
    assert first.wait(20) == 128 + signal.SIGTERM, first.text()
    stopped = re.search(r"stopped at epoch 2, iteration (\d+)/", first.text())
    assert stopped, first.text()
    assert int(stopped[1]) >= 3
    assert f"sdpose train {work_dir}/experiment.yaml --resume-from auto" in first.text()
    assert "Traceback" not in first.text()
    assert "alembic" not in first.text()

    client = MlflowClient(f"sqlite:///{work_dir.parent}/work_dirs/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"
    second = launch(experiment)
    assert second.wait() == 0, second.text()
    assert (
        f"continuing from {work_dir}/latest.pth: epoch 2, iteration {stopped[1]}" in second.text()
    )

    (run,) = client.search_runs(["1"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert (work_dir / "mlflow_run_id").read_text().strip() == run.info.run_id
    for metric, steps in [("train/heatmap_loss", [1, 2, 3]), ("val/AP_50", [2, 3])]:
        history = client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in history] == steps
    assert run.data.params["optimizer.lr"] == "0.001"
    assert set(run.data.tags) >= {"experiment_digest", "dataset_digest", "mlflow.source.git.commit"}
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = {str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()}
    assert "experiment.yaml" in files
    assert any(re.fullmatch(r"checkpoints/best_AP_epoch_\d\.pth", name) for name in files)
    assert sum(name.startswith("logs/") for name in files) == 4
    assert list((work_dir / "tf_logs").glob("events.out.tfevents.*"))
    last = work_dir / "epoch_3.pth"
    assert_same_weights(whole.last_checkpoint, last)


def test_ctrl_c_during_the_start(make, launch) -> None:
    run = launch(make())
    time.sleep(1.5)  # importing, or a little further
    run.process.send_signal(signal.SIGINT)
    assert run.wait(5) == 128 + signal.SIGINT


SLOW_STEP = """
import hashlib, signal
from sdpose.training import interrupt
interrupt.GRACE_SECONDS = {signal.SIGINT: 1.0, signal.SIGTERM: 60.0}
with interrupt.StopSignals(speak=True) as stop:
    with stop.deferred():
        print("in the step", flush=True)
        # Like a long operation of torch: no bytecode runs, and signals do not cut it short.
        hashlib.pbkdf2_hmac("sha256", b"", b"", %d)
        print("the step is done:", stop.received, flush=True)
    print("never", flush=True)
"""


@pytest.mark.parametrize(
    ("signals", "rounds", "expected"),
    [
        ([signal.SIGINT], 200_000, "the step is done: 2"),
        ([signal.SIGINT], 10**9, "time is up"),
        ([signal.SIGTERM, signal.SIGTERM], 10**9, "asked twice"),
    ],
    ids=["finishes", "deadline", "second signal"],
)
def test_a_long_step(signals: list[signal.Signals], rounds: int, expected: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEP % rounds],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "in the step\n"
    started = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.8)  # closer together they would be one request
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < 4
    assert process.returncode == 128 + signals[0]
    assert expected in output
    assert "never" not in output
