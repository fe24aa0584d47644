"""A real MLflow on SQLite, in a subprocess for what must not be printed or imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sdpose import tracking
from sdpose.errors import UserError
from sdpose.tracking.models import create_version


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'deep' / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def server(uri: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri, uri)


def test_a_run_holds_what_was_logged(server: MlflowClient, tmp_path: Path) -> None:
    params = {f"key.{index}": index for index in range(150)} | {"long": "x" * 10_000}
    run = tracking.start_run("mine", params=params, tags={"experiment_digest": "abc"})
    run.log_metrics({"train/loss": 2.0, "val/AP_50": 0.25}, step=1)
    run.log_metrics({"train/loss": 1.0}, step=2)
    (tmp_path / "notes.txt").write_text("hello")
    run.log_artifact(tmp_path / "notes.txt", "logs")
    run.end("FINISHED")

    stored = server.get_run(run.run_id)
    assert (stored.info.run_name, stored.info.status) == ("mine", "FINISHED")
    assert stored.data.params["key.149"] == "149"
    assert len(stored.data.params) == 151
    assert stored.data.metrics == {"train/loss": 1.0, "val/AP_50": 0.25}
    assert stored.data.tags["experiment_digest"] == "abc"
    assert len(stored.data.tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40
    assert server.get_experiment(stored.info.experiment_id).name == "sdpose"
    # Absolute, beside the database: the UI finds it from any folder.
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    database = Path(tracking.tracking_uri().removeprefix("sqlite:///"))
    assert folder.is_relative_to(database.parent / "mlartifacts")
    assert (folder / "logs/notes.txt").read_text() == "hello"
    assert (run.last_step("train/loss"), run.last_step("never")) == (2, -1)


def test_a_run_is_continued(server: MlflowClient) -> None:
    first = tracking.start_run("mine", params={"a": 1}, tags={})
    first.end("KILLED")
    again = tracking.start_run("mine", params={"a": 1}, tags={}, run_id=first.run_id)
    assert again.run_id == first.run_id
    assert server.get_run(first.run_id).info.status == "RUNNING"
    # A run that this server does not know becomes a new one.
    other = tracking.start_run("mine", params={}, tags={}, run_id="0" * 32)
    assert other.run_id not in (first.run_id, "0" * 32)


def test_model_versions_are_numbered(server: MlflowClient) -> None:
    run = tracking.start_run("mine", params={}, tags={})
    for number in ("1", "2"):
        version = create_version(
            "quickstart", "file:///registry/abc", run.run_id, {"sha256": "abc"}
        )
        assert version == number
    stored = server.get_model_version("quickstart", "2")
    assert (stored.source, stored.run_id, stored.tags) == (
        "file:///registry/abc",
        run.run_id,
        {"sha256": "abc"},
    )


def test_no_server_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        UserError, match=r"MLflow at http://127\.0\.0\.1:9.*\n.*MLFLOW_TRACKING_URI"
    ):
        tracking.start_run("mine", params={}, tags={})


FIRST_USE = """
import sys
import sdpose.training.loop
from sdpose import tracking
heavy = {"mlflow", "boto3", "kfp", "kubernetes", "pycocotools", "tensorboard"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
tracking.start_run("mine", params={}, tags={}).end("FINISHED")
"""


@pytest.mark.slow
def test_first_use_is_quiet_and_imports_nothing_heavy_before(tmp_path: Path) -> None:
    """Without a server configured: a new database below the current folder."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FIRST_USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert {path.name for path in (tmp_path / "work_dirs").iterdir()} == {"mlflow.db"}
