"""The whole pipeline on this machine, through kfp's local runner, with a real MLflow."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdpose.config import experiment_digest, load_experiment
from sdpose.evaluation import METRIC_NAMES
from sdpose.files import sha256_of_file
from sdpose.registry import read_version, summarize
from sdpose.registry.channels import current, refusals
from sdpose.registry.verify import verify
from sdpose.storage import open_store

TINY = Path(__file__).with_name("tiny.yaml")
PROMOTED = ("--exp", TINY, "--promote", "production", "--set", "promotion.min_ap=0.99")


class Finished:
    """A run to its end, in a folder of its own."""

    def __init__(self, process: subprocess.Popen[str], cwd: Path) -> None:
        self.cwd = cwd
        self.stdout, self.stderr = process.communicate(timeout=240)
        self.code = process.returncode

    def keep(self, folder: Path) -> Finished:
        """Copies the results: others run in its folder later."""
        self.kept = shutil.copytree(self.cwd / "work_dirs", folder)
        return self

    def json(self, path: str) -> dict[str, Any]:
        return json.loads((self.cwd / path).read_text())


@pytest.fixture(scope="module")
def first(submit, tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    cwd = tmp_path_factory.mktemp("first")
    return Finished(
        submit(*PROMOTED, "--data-root", tiny_coco, cwd=cwd, SDPOSE_APPROVER="kim"), cwd
    ).keep(tmp_path_factory.mktemp("kept") / "work_dirs")


@pytest.fixture(scope="module")
def again(submit, tiny_coco: Path, first: Finished) -> Finished:
    """The same command, given once more."""
    return Finished(submit(*PROMOTED, "--data-root", tiny_coco, cwd=first.cwd), first.cwd)


def test_every_step_runs_and_is_told_of(first: Finished) -> None:
    assert (first.code, first.stderr) == (0, "")
    steps = ["prepare_coco", "train", "evaluate", "register", "promote"]
    lines = first.stdout.splitlines()
    positions = []
    for number, name in enumerate(steps, start=1):
        positions.append(lines.index(f"[{number}/5] {name}"))
        assert any(line.startswith(f"[{number}/5] {name}: done in ") for line in lines)
    assert positions == sorted(positions)
    assert "runner: local (no Kubeflow Pipelines endpoint is configured" in first.stdout
    assert "KFP Executor" not in first.stdout
    assert "\x1b" not in first.stdout, "colours, and this is no terminal"
    assert any(line.startswith("Epoch [2]") for line in lines)


def test_summary(first: Finished, tiny_coco: Path) -> None:
    summary = json.loads((first.kept / "tiny/summary.json").read_text())
    experiment = load_experiment(TINY, ["promotion.min_ap=0.99"], data_root=str(tiny_coco))
    assert summary["exp_name"] == "tiny"
    assert summary["runner"] == "local"
    assert summary["experiment_digest"] == experiment_digest(experiment)
    assert len(summary["dataset_digest"]) == 64
    # tiny.yaml asks for detections, the dataset has none, and the summary says what was done.
    assert summary["bbox_source"] == "ground truth"
    assert list(summary["metrics"]) == list(METRIC_NAMES)
    assert summary["ap"] == summary["metrics"]["AP"]
    assert set(summary["seconds"]) == {
        *("prepare_coco", "train", "evaluate", "register", "promote")
    }
    best = Path(summary["best_checkpoint"])
    assert best == first.cwd / "work_dirs/tiny/best_AP_epoch_2.pth"
    assert best.is_file()
    assert summary["model_version"] == 1
    for line in (
        f"AP:            {summary['ap']:.4f} on ground truth boxes",
        f"checkpoint:    {best}",
        "MLflow:        sdpose ui (or make ui), then",
        "  this run:    http://127.0.0.1:5000/#/experiments/1/runs/"
        f"{summary['mlflow_run_id']}?workflowType=machine_learning",
        "all runs:      sdpose compare work_dirs/*",
        "model version: tiny version 1",
    ):
        assert line in first.stdout


def test_registered_checkpoint_is_the_best_one(first: Finished) -> None:
    summary = first.json("work_dirs/tiny/summary.json")
    store = open_store(first.cwd / "work_dirs/registry")
    assert verify(store) == []
    version = read_version(store, "tiny", summary["model_version"])
    best = Path(summary["best_checkpoint"])
    assert version.manifest["checkpoint"]["sha256"] == sha256_of_file(best)
    assert version.manifest["metrics"] == summary["metrics"]
    assert version.manifest["dataset_digest"] == summary["dataset_digest"]
    assert version.weights_uri == summary["registered_checkpoint"]


def test_a_refused_promotion_says_why_and_keeps_the_version(first: Finished) -> None:
    store = open_store(first.kept / "registry")
    assert current(store, "tiny", "production") is None
    (refused,) = refusals(store, "tiny", "production")
    summary = json.loads((first.kept / "tiny/summary.json").read_text())
    assert refused == summary["promotion"]
    assert (refused["version"], refused["approver"]) == (1, "kim")
    (reason,) = [v["reason"] for v in refused["gates"] if not v["passed"]]
    assert f"promotion:     production refuses it: min_ap: {reason}" in first.stdout
    assert [summary["version"] for summary in summarize(store, "tiny")] == [1]


def without_time(report: str) -> str:
    return re.sub(r"Made [-0-9]+ [0-9:]+", "Made", report)


def test_the_report_is_in_the_work_dir_and_in_mlflow(first: Finished) -> None:
    from mlflow import MlflowClient

    report = first.kept / "tiny/report.html"
    assert "report:        work_dirs/tiny/report.html" in first.stdout
    page = report.read_text(encoding="utf-8")
    summary = json.loads((first.kept / "tiny/summary.json").read_text())
    for fact in ("dataset_digest", "mlflow_run_id", "git_commit"):
        assert f"<td>{summary[fact]}</td>" in page
    assert f"<dd>{summary['ap']:.4f}</dd>" in page
    client = MlflowClient(tracking_uri=f"sqlite:///{first.cwd}/work_dirs/mlflow.db")
    logged = client.download_artifacts(summary["mlflow_run_id"], "report.html")
    # The same command again makes it again.
    assert without_time(Path(logged).read_text("utf-8")) == without_time(page)
    (artifact,) = first.kept.glob("tiny/pipeline/artifacts/*/evaluate/report")
    assert artifact.read_bytes() == report.read_bytes()


def test_same_command_again_makes_nothing_new(first: Finished, again: Finished) -> None:
    from mlflow import MlflowClient

    assert again.code == 0
    assert "registered as tiny version 1, which holds the same content already" in again.stdout
    summary = again.json("work_dirs/tiny/summary.json")
    client = MlflowClient(tracking_uri=f"sqlite:///{first.cwd}/work_dirs/mlflow.db")
    (version,) = client.search_model_versions("")
    assert (version.name, version.run_id) == ("tiny", summary["mlflow_run_id"])
    assert version.source == summary["registered_checkpoint"]
    assert version.tags["sdpose.registry_version"] == "1"
    run = client.get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["exp_name"] == "tiny"


def test_nothing_is_left_but_results(again: Finished) -> None:
    left = {path.relative_to(again.cwd).as_posix() for path in again.cwd.glob("*")}
    assert left == {"work_dirs"}
    pipeline = again.cwd / "work_dirs/tiny/pipeline"
    assert len(list((pipeline / "artifacts").iterdir())) == 1, "artifacts of earlier runs pile up"


def test_only_what_has_changed_runs_again_and_a_failed_run_is_resumed(
    submit, tiny_coco: Path, again: Finished
) -> None:
    unchanged = "nothing that it depends on has changed; its result of"
    for step in ("train", "evaluate"):
        assert f"{step}: {unchanged}" in again.stdout
    assert "[1/5] prepare_coco: done in" in again.stdout

    work_dir = again.cwd / "work_dirs/tiny"
    (work_dir / "pipeline/steps/evaluate/results/results.json").write_text("[]")
    command = (*PROMOTED, "--data-root", tiny_coco)
    failed = Finished(submit(*command, cwd=again.cwd, SDPOSE_REGISTRY="/proc/none"), again.cwd)
    assert failed.code == 2
    assert f"train: {unchanged}" in failed.stdout
    assert "evaluate: runs again: its earlier result 'results' has been changed" in failed.stdout
    assert "error: register: cannot write to /proc/none" in failed.stderr

    resumed = Finished(submit("resume", work_dir, cwd=work_dir), again.cwd)
    assert (resumed.code, resumed.stderr) == (0, "")
    for step in ("train", "evaluate"):
        assert f"{step}: {unchanged}" in resumed.stdout
    assert "[4/5] register: done in" in resumed.stdout
    assert "[5/5] promote: done in" in resumed.stdout

    other = Finished(submit(*command, "--set", "seed=1", cwd=again.cwd), again.cwd)
    assert other.code == 2
    assert "train: runs again: experiment: seed: 0 -> 1\n" in other.stdout
    assert "holds another experiment's results" in other.stderr


def test_missing_data(submit, tmp_path: Path) -> None:
    done = Finished(submit("--exp", TINY, "--data-root", "nowhere", cwd=tmp_path), tmp_path)
    assert done.code == 2
    assert f"error: prepare_coco: data_root is not a folder: {tmp_path}/nowhere" in done.stderr
    assert "How to get COCO" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# ------------------------------------------------------------------------------ interrupted runs

LONG = (
    *("--exp", TINY, "--set", "total_epochs=500", "--set", "evaluation.interval=500"),
    *("--set", "log_config.hooks=[TextLoggerHook]"),
)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The output up to the line with `text`; no later line is waited for, so output is live."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    assert process.stderr is not None
    pytest.fail(f"'{text}' never came:\n{''.join(lines[-20:])}{process.stderr.read()}")


def step_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_stopped_killed_and_continued(submit, living, tiny_coco: Path, tmp_path: Path) -> None:
    command = (*LONG, "--data-root", tiny_coco)

    # Ctrl-C that only submit.py gets.
    process = submit(*command, cwd=tmp_path)
    read_until(process, "Epoch [2][")
    started = step_processes(process)
    assert len(started) >= 3, "a shell, the training, its loader process"
    refused = Finished(submit(*command, cwd=tmp_path), tmp_path)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - asked < 15, "it waited for the end of training's grace"
    assert process.returncode == 130
    assert "SIGINT: stopped. To continue:" in stderr
    assert stderr.rstrip().endswith(f"--data-root {tiny_coco}")
    assert not living(started)
    assert "Traceback" not in stdout + stderr
    # While it ran, a second run in the same work dir was refused.
    assert refused.code == 2
    assert "another run uses this work dir now" in refused.stderr

    # The same command continues; this time the training dies.
    process = submit(*command, cwd=tmp_path)
    assert "continuing from" in read_until(process, "Epoch [")
    training = next(p for p in step_processes(process) if "kfp.dsl.executor_main" in p.cmdline())
    training.kill()
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: step 'train' failed (killed by SIGKILL" in stderr
    assert "\n    Epoch [" in stderr, "the last lines of the step"
    assert (tmp_path / "work_dirs/tiny/latest.pth").is_file()
