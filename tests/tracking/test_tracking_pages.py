"""What a person finds in MLflow: the pages that are named, what a run carries, and artifacts where
the project is, also after it was moved. MLflow is a real one, on SQLite."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from servers.mlflow import free_port

from sdpose import tracking
from sdpose.cli import cli
from sdpose.config import Experiment, load_experiment
from sdpose.errors import UserError
from sdpose.outputs.mlflow_sink import MlflowSink
from sdpose.training.events import EpochRecord, EvaluationRecord

pytestmark = pytest.mark.slow

LOSSES = {"heatmap_loss": 0.5, "vis_dist_loss": 3e-6, "kpt_dist_loss": 0.0}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that was trained in, with the database that is made where none is configured."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def track(experiment: Experiment) -> str:
    """A training of one epoch, as the loop tells it to its sink; returns the run's id."""
    work_dir = Path(str(experiment.work_dir))
    work_dir.mkdir(parents=True)
    (work_dir / "experiment.yaml").write_text("exp_name: mine")
    sink = MlflowSink(experiment, work_dir, "20261130_000000", False, "d" * 64)
    sink.epoch(EpochRecord(1, 2, 10, 1e-3, 1.0, 1.0, LOSSES))
    sink.evaluation(EvaluationRecord(1, 10, "ground truth", 1.0, {"AP": 0.25}, 0.25))
    sink.evaluation(EvaluationRecord(2, 20, "ground truth", 1.0, {"AP": 0.2}, 0.25))
    sink.close("FINISHED", None, 60.0)
    return sink.run_id


@pytest.fixture
def experiment(project: Path) -> Experiment:
    weights = [
        "model.keypoint_head.loss_vis_token_dist.loss_weight=1e-5",
        "model.keypoint_head.loss_kpt_token_dist.loss_weight=0",
    ]
    changes = ["exp_name=mine", "data_root=data/people", *weights]
    return load_experiment("maskedkd_v2", changes)


def client() -> MlflowClient:
    return MlflowClient(tracking.tracking_uri(), tracking.tracking_uri())


def test_what_a_run_carries(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "kim")
    run = client().get_run(track(experiment))
    tags = run.data.tags
    assert tags["mlflow.source.name"] == "sdpose train mine"
    assert tags["mlflow.user"] == run.info.user_id == "kim"
    assert "exp_name: mine" in tags["mlflow.note.content"]
    (seen,) = run.inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest) == ("people", "d" * 36)
    assert json.loads(seen.dataset.source) == {"uri": str(Path("data/people").absolute())}
    metrics = run.data.metrics
    assert metrics["best_AP"] == 0.25
    assert metrics["val/AP"] == 0.2
    assert metrics["train/vis_dist_loss"] == pytest.approx(3e-6)
    assert metrics["train/vis_dist_loss_unweighted"] == pytest.approx(0.3)
    assert "train/kpt_dist_loss_unweighted" not in metrics  # its weight is 0


# ----------------------------------------------------------------------------------------- moved


def log_a_file(text: str) -> tuple[str, Path]:
    """A new run with an artifact; returns its id and where the artifact is."""
    Path("note.txt").write_text(text)
    run = tracking.start_run("mine", params={}, tags={})
    run.log_artifact(Path("note.txt"))
    uri = client().get_run(run.run_id).info.artifact_uri
    return run.run_id, Path(uri.removeprefix("file://")) / "note.txt"


def read_back(run_id: str) -> str:
    return Path(client().download_artifacts(run_id, "note.txt")).read_text()


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_artifacts_follow_the_project(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    move: Any,
) -> None:
    first, old = log_a_file("before")
    assert old.is_relative_to(project / "work_dirs/mlartifacts")
    database = project / "work_dirs/mlflow.db"
    here = tmp_path / "another place%20"
    move(project, here)
    before = database.read_bytes() if database.exists() else b""
    monkeypatch.chdir(here)
    capfd.readouterr()
    second, _ = log_a_file("after")
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"MLflow's artifacts are in {here / 'work_dirs/mlartifacts'} now" in said
    assert (read_back(first), read_back(second)) == ("before", "after")
    assert len(list(here.glob("work_dirs/mlartifacts/*/*/artifacts/note.txt"))) == 2
    left = list(project.glob("work_dirs/mlartifacts/*/*/artifacts/note.txt"))
    assert left == ([old] if before else [])
    assert (database.read_bytes() if before else b"") == before
    log_a_file("once more")
    assert capfd.readouterr().err == ""


def test_the_same_folder_by_another_path_is_not_moved(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_a_file("before")
    (tmp_path / "link").symlink_to(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/link/work_dirs/mlflow.db")
    capfd.readouterr()
    _, path = log_a_file("after")
    assert path.is_relative_to(project)
    assert capfd.readouterr().err == ""


def test_a_place_that_somebody_chose_stays(project: Path, tmp_path: Path) -> None:
    tracking.start_run("mine", params={}, tags={})
    client().create_experiment("theirs", artifact_location=(tmp_path / "chosen").as_uri())
    tracking.server.moved_database.update_locations.cache_clear()
    tracking.start_run("mine", params={}, tags={})
    experiment = client().get_experiment_by_name("theirs")
    assert experiment.artifact_location == (tmp_path / "chosen").as_uri()


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def ui(project: Path) -> Iterator[Any]:
    """`sdpose ui` in the project; returns its port and what it has printed."""
    processes = []

    def start() -> tuple[int, str]:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "sdpose", "ui", "--port", str(port)],
            env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        give_up = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return port, said
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.2)

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_folder_without_runs_is_said(project: Path) -> None:
    with pytest.raises(UserError, match=r"work_dirs/mlflow\.db is not here"):
        CliRunner().invoke(cli, ["ui"], catch_exceptions=False)
    assert list(project.iterdir()) == []


@pytest.mark.timeout(600)
def test_the_pages_that_are_named_are_the_right_ones(
    chromium: Any, experiment: Experiment, ui: Any
) -> None:
    run_id = track(experiment)
    port, said = ui()
    links = tracking.links_of(run_id)
    assert links is not None
    comparison = links.comparison.replace(":5000/", f":{port}/")
    assert comparison in said
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(comparison)
    page.get_by_text("train/heatmap_loss").first.wait_for()  # the title of a chart
    for_language_models = page.get_by_text("Judges")
    assert for_language_models.count() == 0
    page.goto(links.run.replace(":5000/", f":{port}/"))
    page.get_by_text("What differs from the defaults").first.wait_for()
    page.get_by_text("sdpose train mine").first.wait_for()
    page.get_by_text("people").first.wait_for()
    assert for_language_models.count() == 0
    context.close()
