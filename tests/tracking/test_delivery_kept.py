"""What MLflow has not got when a process ends, with MLflow away and the queue not writable."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sdpose import tracking
from sdpose.outputs import mlflow_sink
from sdpose.tracking import delivery
from sdpose.tracking.delivery import Delivery
from tests.servers.mlflow import MlflowServer
from tests.servers.proxy import Answer, FaultProxy


@pytest.fixture
def proxy(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (0.05, 0.1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FaultProxy.to(mlflow_server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        yield proxy


@pytest.fixture
def run_id(proxy: FaultProxy) -> str:
    run_id = tracking.start_run("delivered", params={}, tags={}).run_id
    proxy.plan = lambda request: Answer(503)
    return run_id


def ended(work_dir: Path, run_id: str) -> int:
    queue = Delivery(work_dir / "mlflow_queue.jsonl")
    for step in (1, 2, 3):
        queue.metrics(run_id, {"train/loss": 1.0}, step)
    return mlflow_sink._end(queue, work_dir, 0)


def test_they_are_kept_elsewhere_and_delivered_later(
    proxy: FaultProxy,
    mlflow_server: MlflowServer,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    work_dir = tmp_path / "run"
    (work_dir / "mlflow_queue.jsonl").mkdir(parents=True)  # nothing can be written in its place
    assert ended(work_dir, run_id) == 3
    (kept,) = tmp_path.glob("sdpose-*-mlflow_queue.jsonl")
    assert f"3 records wait in {kept}, because" in logged[-1]
    assert f"`sdpose sync {work_dir}`" in logged[-1]

    (work_dir / "mlflow_queue.jsonl").rmdir()
    shutil.move(kept, work_dir / "mlflow_queue.jsonl")
    proxy.reset()
    assert mlflow_sink.deliver_what_waits(work_dir) == 0
    client = MlflowClient(mlflow_server.uri, mlflow_server.uri)
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3]


@pytest.mark.usefixtures("proxy")
def test_what_is_lost_is_counted_and_said(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert ended(tmp_path / "missing", run_id) == 3
    assert "3 records are lost" in logged[-1]


@pytest.mark.usefixtures("proxy")
def test_a_disk_that_has_room_again_takes_them(
    run_id: str, tmp_path: Path, logged: list[str]
) -> None:
    """The last write before the end failed; the one at the end does not."""
    queue = Delivery(tmp_path / "run/mlflow_queue.jsonl")
    queue.metrics(run_id, {"train/loss": 1.0}, 1)
    assert any("waits in memory" in line for line in logged)
    (tmp_path / "run").mkdir()
    assert mlflow_sink._end(queue, tmp_path / "run", 0) == 1
    assert "1 record waits in" in logged[-1]
    assert len((tmp_path / "run/mlflow_queue.jsonl").read_text().splitlines()) == 1


def test_a_damaged_line_costs_itself_alone(
    proxy: FaultProxy,
    mlflow_server: MlflowServer,
    run_id: str,
    tmp_path: Path,
    logged: list[str],
) -> None:
    proxy.reset()
    good = {"run_id": run_id, "time": 1, "metrics": {"train/loss": 1.0}, "step": 1}
    damaged = [
        "5",
        "[]",
        '{"run_id": 5}',
        json.dumps({**good, "metrics": []}),
        json.dumps({**good, "step": "x"}),
        json.dumps({"run_id": run_id, "time": 1, "file": 5}),
        json.dumps({"run_id": run_id, "time": 1, "status": "?"}),
        "[" * 100_000,
        '{"run_',
    ]
    (tmp_path / "queue").write_text("\n".join([*damaged, json.dumps(good)]) + "\n")
    assert Delivery(tmp_path / "queue").close(60) == 0
    client = MlflowClient(mlflow_server.uri, mlflow_server.uri)
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [1]
    assert "9 damaged lines left out" in logged[0]
