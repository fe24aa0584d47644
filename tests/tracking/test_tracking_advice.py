"""An MLflow that others have used, or an address that is none: the message says what helps."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sdpose import tracking
from sdpose.errors import UserError
from sdpose.tracking import runs_named

pytestmark = pytest.mark.slow


def start() -> tracking.TrackedRun:
    return tracking.start_run("mine", params={}, tags={})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with our experiment and a run."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        start().end("FINISHED")
    return path


@pytest.fixture
def database(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(shutil.copy(made, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return path


def refusal() -> str:
    with pytest.raises(UserError) as refused:
        start()
    return str(refused.value)


def change(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_deleted_experiment_is_restored_by_the_command_that_is_said(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking.tracking_uri())
    client.delete_experiment(client.get_experiment_by_name("sdpose").experiment_id)
    said = refusal()
    assert "the experiment 'sdpose' was deleted" in said
    assert "that answers" not in said
    with pytest.raises(UserError, match="was deleted"):
        tracking.check_writable()
    with pytest.raises(UserError, match="was deleted"):
        tracking.sweep_run("a sweep")

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another one/of the team")
    run = start()
    assert client.get_experiment(client.get_run(run.run_id).info.experiment_id).name == (
        "another one/of the team"
    )
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")

    (command,) = [line for line in said.splitlines() if "mlflow experiments restore" in line]
    words = command.partition("Restore it: ")[2].split()
    assert words[0] == f"MLFLOW_TRACKING_URI={tracking.tracking_uri()}"
    subprocess.run([sys.executable, "-m", *words[1:]], check=True, capture_output=True)
    start()


def test_the_experiment_is_chosen_by_mlflows_own_variable(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "../team-a")
    run = start()
    stored = MlflowClient(tracking.tracking_uri()).get_run(run.run_id)
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert folder.resolve().is_relative_to(database.parent / "mlartifacts")
    assert [past.run_id for past in runs_named("mine")] == [run.run_id]
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert run.run_id not in [past.run_id for past in runs_named("mine")]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("update alembic_version set version_num='451aebb31d03'", "mlflow db upgrade sqlite:///"),
        ("update alembic_version set version_num='ffffffffffff'", "install that MLflow here"),
    ],
)
def test_a_database_of_another_mlflow(database: Path, statement: str, message: str) -> None:
    change(database, statement)
    assert message in refusal()


def test_a_locked_database(database: Path) -> None:
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    said = refusal()
    holder.execute("COMMIT")
    holder.close()
    assert "the database is locked: another process writes to it" in said
    assert "mlflow server --backend-store-uri" in said
    start()


def test_a_file_that_is_no_database(database: Path) -> None:
    database.write_text("hello, this is no database at all" * 100)
    assert "the file is no SQLite database" in refusal()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", "to folders any more"),
        ("file:///tmp/mlruns", "mlflow migrate-filestore"),
        ("127.0.0.1:5000", "did you mean http://127.0.0.1:5000?"),
        ("mlflow.team:5000/mlflow", "did you mean http://mlflow.team:5000/mlflow?"),
        ("mysql://me:hunter2secret@127.0.0.1/db", "driver is not installed"),
    ],
)
def test_an_address_that_cannot_work(
    uri: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = refusal()
    assert message in said
    assert "hunter2" not in said
    assert "that answers" not in said
    assert list(tmp_path.iterdir()) == []
