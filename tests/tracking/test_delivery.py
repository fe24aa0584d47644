"""What waits for MLflow, with a real server behind a network that fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sdpose import tracking
from sdpose.tracking import delivery
from sdpose.tracking.delivery import Delivery
from tests.servers.mlflow import MlflowServer
from tests.servers.proxy import Answer, Cut, Fault, FaultProxy, Request

LONG = 60.0


@pytest.fixture
def proxy(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(delivery, "RETRY_SECONDS", (0.05, 0.1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FaultProxy.to(mlflow_server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy, mlflow_server: MlflowServer) -> MlflowClient:
    return MlflowClient(mlflow_server.uri, mlflow_server.uri)


@pytest.fixture
def run_id(proxy: FaultProxy) -> str:
    run_id = tracking.start_run("delivered", params={}, tags={}).run_id
    proxy.reset()
    return run_id


def steps(client: MlflowClient, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def in_log_calls(fault: Fault, times: int) -> Callable[[Request], Fault | None]:
    """A plan: the first calls that write metrics fail."""
    count = itertools.count()
    return lambda request: (
        fault if request.path.endswith("/log-batch") and next(count) < times else None
    )


@pytest.mark.parametrize(
    "fault",
    [Cut("before"), Cut("after"), Answer(500), Answer(404), Answer(429), Answer(401)],
    ids=["refused", "answer lost", "500", "a proxy's 404", "429", "an expired token"],
)
def test_what_fails_is_sent_again_and_counted_once(
    fault: Fault,
    proxy: FaultProxy,
    client: MlflowClient,
    run_id: str,
    tmp_path: Path,
    logged: list[str],
) -> None:
    proxy.plan = in_log_calls(fault, times=3)
    queue = Delivery(tmp_path / "queue")
    for step in (1, 2, 3):
        queue.metrics(run_id, {"train/loss": step / 8, "learning_rate": 0.1}, step)
    queue.status(run_id, "FINISHED")
    assert queue.close(LONG) == 0
    assert steps(client, run_id) == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert len(steps(client, run_id, "learning_rate")) == 3
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [line.split(" (")[0] for line in logged[:2]] == [
        "warning: MLflow takes no metrics",
        "MLflow takes metrics again",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_goes_on_where_one_was_killed(
    proxy: FaultProxy, client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    proxy.plan = lambda request: Answer(503)
    killed = Delivery(tmp_path / "queue")
    for step in (1, 2):
        killed.metrics(run_id, {"train/loss": 1.0}, step)
    assert killed.close(0) == 2
    (tmp_path / "queue.tmp").write_text('{"run_')  # killed while it wrote
    before = (tmp_path / "queue").read_text()

    proxy.reset()
    resumed = Delivery(tmp_path / "queue")
    for step in (2, 3):  # the second epoch is computed again
        resumed.metrics(run_id, {"train/loss": 1.0}, step)
    assert resumed.close(LONG) == 0
    assert [step for step, _ in steps(client, run_id)] == [1, 2, 3]

    # An older copy of the file, as a mirror may hold it.
    (tmp_path / "queue").write_text(before)
    assert Delivery(tmp_path / "queue").close(LONG) == 0
    assert [step for step, _ in steps(client, run_id)] == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_files_do_not_hold_metrics_up(
    proxy: FaultProxy, client: MlflowClient, run_id: str, tmp_path: Path, logged: list[str]
) -> None:
    proxy.plan = lambda request: Answer(500) if "mlflow-artifacts" in request.path else None
    (tmp_path / "notes.txt").write_text("hello")
    queue = Delivery(tmp_path / "queue")
    queue.file(run_id, tmp_path / "notes.txt", "logs")
    queue.metrics(run_id, {"train/loss": 1.0}, 1)
    queue.status(run_id, "FINISHED")
    assert queue.close(1.0) == 1
    assert steps(client, run_id) == [(1, 1.0)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "MLflow takes no files" in logged[0]
    proxy.reset()
    assert Delivery(tmp_path / "queue").close(LONG) == 0
    assert [file.path for file in client.list_artifacts(run_id, "logs")] == ["logs/notes.txt"]


def test_a_deleted_run_is_given_up_and_the_next_one_is_not(
    proxy: FaultProxy, client: MlflowClient, run_id: str, tmp_path: Path, logged: list[str]
) -> None:
    client.delete_run(run_id)
    queue = Delivery(tmp_path / "queue")
    for step in (1, 2):
        queue.metrics(run_id, {"train/loss": 1.0}, step)
    other = tracking.start_run("delivered", params={}, tags={}, run_id=run_id).run_id
    assert other != run_id
    queue.metrics(other, {"train/loss": 1.0}, 1)
    assert queue.close(LONG) == 0
    assert steps(client, other) == [(1, 1.0)]
    (line,) = logged
    assert line.startswith("warning: MLflow refuses metrics of this run: ")
    assert "active" in line


def test_a_full_disk_costs_nothing_while_the_process_lives(
    proxy: FaultProxy, client: MlflowClient, run_id: str, tmp_path: Path, logged: list[str]
) -> None:
    proxy.plan = in_log_calls(Answer(500), times=1)
    queue = Delivery(tmp_path / "missing" / "queue")
    for step in (1, 2):
        queue.metrics(run_id, {"train/loss": 1.0}, step)
    assert queue.close(LONG) == 0
    assert [step for step, _ in steps(client, run_id)] == [1, 2]
    assert sum("waits in memory" in line for line in logged) == 1
