"""A real MLflow server that is killed, away and silent while trainings need it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from servers.mlflow import MlflowServer

HOOKS = "log_config.hooks=[TextLoggerHook, MlflowLoggerHook]"
QUEUE = "mlflow_queue.jsonl"
# MLflow's own tries in one call, so that an outage is told in seconds.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@pytest.fixture
def server(own_mlflow_server: MlflowServer) -> MlflowServer:
    return own_mlflow_server.start()


def run_of(server: MlflowServer, work_dir: Path):
    """The run in MLflow; history(metric): its steps, in order."""
    client = MlflowClient(server.uri, server.uri)
    run_id = (work_dir / "mlflow_run_id").read_text().strip()

    def history(metric: str) -> list[tuple[int, float]]:
        points = client.get_metric_history(run_id, metric)
        return sorted((point.step, point.value) for point in points)

    files = {file.path for file in client.list_artifacts(run_id, "logs")}
    return client.get_run(run_id).info.status, history, files


def sync(work_dir: Path, server: MlflowServer) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "sdpose", "sync", str(work_dir)],
        env=os.environ | {"MLFLOW_TRACKING_URI": server.uri, **IMPATIENT},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(900)  # it waits for clients that give up
def test_a_server_that_is_gone_misses_nothing(make, launch, server, records) -> None:
    """It is killed while a run goes on, the run is killed, too, and goes on without it."""
    experiment = make("total_epochs=8", HOOKS)
    work_dir = Path(str(experiment.work_dir))
    environment = {"MLFLOW_TRACKING_URI": server.uri, **IMPATIENT}

    first = launch(experiment, environment=environment, pause=0.1)
    first.wait_for("Epoch [2][2/")
    server.kill()
    first.wait_for("training goes on, what it misses waits in")
    first.wait_for("Epoch [4][3/")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    link = rf"^MLflow run: {server.uri}/#/.*/runs/\w+\?workflowType=machine_learning$"
    assert re.search(link, first.text(), re.M)

    second = launch(experiment, environment=environment)
    assert second.wait() == 0
    said = second.text()
    assert f"records wait in {work_dir / QUEUE}; `sdpose sync {work_dir}` delivers them" in said

    code, said = sync(work_dir, server)
    assert code == 1, said
    assert "MLflow did not get everything" in said

    server.start()
    code, said = sync(work_dir, server)
    assert (code, said.splitlines()[-1]) == (0, "MLflow has everything")
    status, history, files = run_of(server, work_dir)
    assert status == "FINISHED"
    assert [step for step, _ in history("train/loss")] == list(range(1, 9))
    assert [step for step, _ in history("learning_rate")] == list(range(1, 9))
    evaluated = [(line["epoch"], line["AP"]) for line in records(work_dir) if line["mode"] == "val"]
    assert dict(history("val/AP")) == pytest.approx(dict(evaluated))
    assert [step for step, _ in history("val/AP")] == [2, 4, 6, 8]
    newest = max(path.name for path in work_dir.glob("*.log.json"))
    assert f"logs/{newest}" in files
    assert not list(work_dir.glob("mlflow_queue*"))


def test_a_server_that_is_silent_holds_no_step_up(make, launch, server) -> None:
    experiment = make("total_epochs=6", HOOKS)
    work_dir = Path(str(experiment.work_dir))
    environment = {"MLFLOW_TRACKING_URI": server.uri, **IMPATIENT}
    run = launch(experiment, environment=environment, pause=0.1)
    run.wait_for("Epoch [1][9/")
    server.pause()
    try:
        run.wait_for("Epoch [6][11/", seconds=60)
        waiting = [json.loads(line) for line in (work_dir / QUEUE).read_text().splitlines()]
    finally:
        server.resume()
    assert {entry["step"] for entry in waiting if "step" in entry} >= {4, 5}
    assert run.wait() == 0
    status, history, _ = run_of(server, work_dir)
    assert status == "FINISHED"
    assert [step for step, _ in history("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert not (work_dir / QUEUE).exists()
