"""Files of commit 8ec8903, from before the refactor, are read by this code.

old_files/write.py made them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from snapshots.old_files.write import PLACE, machine

from sdpose import tracking
from sdpose.cli import cli
from sdpose.config import parse_experiment
from sdpose.outputs.run_progress import progress_in
from tests.servers.mlflow import MlflowServer

ARCHIVE = Path(__file__).parent / "old_files" / "written_by_8ec8903.tar.xz"
VARIABLES = ("MLFLOW_TRACKING_URI", "SDPOSE_REGISTRY", "SDPOSE_EXPERIMENTS", "KFP_ENDPOINT")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, in the current folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for path in (tmp_path / "work_dirs/tiny").rglob("*.[jy][sa][om][nl]"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(str(PLACE), str(tmp_path)), encoding="utf-8")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_thread() -> Any:
    """The bits of a sum depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sdpose(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def shape(value: Any) -> Any:
    """A document without its values: its keys, at all depths."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def logged(work_dir: Path) -> dict[str, set[str]]:
    """The keys of each kind of line in the newest .log.json."""
    *_, newest = sorted(work_dir.glob("*.log.json"))
    lines = map(json.loads, newest.read_text(encoding="utf-8").splitlines())
    return {line.get("mode", "heading"): set(line) for line in lines}


def assert_same(ours: Any, theirs: Any, where: str, exact: bool) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}.{key}", exact)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{number}]", exact)
    elif isinstance(theirs, torch.Tensor):
        rtol, atol = (0.0, 0.0) if exact else (1e-2, 1e-3)
        torch.testing.assert_close(
            ours, theirs, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(theirs, float) and not exact:
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3), where
    else:
        assert ours == theirs, where


@pytest.mark.usefixtures("one_thread")
def test_a_training_continues_from_an_old_checkpoint(old: Path) -> None:
    """What two more epochs make of weights, optimizer and counters is what the old code made: bit
    for bit on a machine like the one that wrote them, else up to rounding."""
    exact = read(old / "machine.json") == machine()
    lines, progress = logged(old / "run"), read(old / "run/progress.json")
    theirs = torch.load(old / "run/epoch_3.pth", weights_only=True)
    for name in ("best_AP_epoch_3.pth", "epoch_3.pth", "latest.pth"):
        (old / "run" / name).unlink()
    sdpose("train", "tiny.yaml", "--data-root", "data", "--work-dir", "run")
    ours = torch.load(old / "run/epoch_3.pth", weights_only=True)
    assert ours["meta"].pop("seconds") != theirs["meta"].pop("seconds")
    # Keys that were added since, with their defaults; the digest is the text's.
    written, before = (c["meta"].pop("experiment") for c in (ours, theirs))
    assert parse_experiment(written) == parse_experiment(before)
    assert ours["meta"].pop("experiment_digest") != theirs["meta"].pop("experiment_digest")
    assert_same(ours, theirs, "epoch_3", exact)
    assert logged(old / "run") == lines
    assert list(read(old / "run/progress.json")) == list(progress)


def test_a_finished_training_is_found_finished(old: Path) -> None:
    before = (old / "run/epoch_3.pth").read_bytes()
    sdpose("train", "tiny.yaml", "--data-root", "data", "--work-dir", "run")
    assert (old / "run/epoch_3.pth").read_bytes() == before
    assert not (old / "run/epoch_2.pth").exists(), "it was trained again"


def test_progress(old: Path) -> None:
    progress = progress_in(old / "run")
    assert progress is not None
    assert (progress.status, progress.percent, progress.epoch) == ("FINISHED", 100, 3)


def test_a_pack_is_used_as_it_is(old: Path) -> None:
    """And this code makes the same bytes."""

    def files(packs: Path) -> dict[str, bytes]:
        found = (path for path in packs.rglob("*") if path.is_file() and path.name[0] != ".")
        return {str(path.relative_to(packs)): path.read_bytes() for path in found}

    written, times = (
        files(old / "packs"),
        {p: p.stat().st_mtime_ns for p in old.glob("packs/*/*.*")},
    )
    prepare = ("prepare", "tiny.yaml", "--data-root", "data", "--set", "data.pipeline=fast")
    sdpose(*prepare, "--set", "data.pack_dir=packs")
    assert files(old / "packs") == written
    shards = [path for path in times if path.suffix in (".bin", ".npy")]
    assert shards
    assert all(path.stat().st_mtime_ns == times[path] for path in shards), "packed again"
    sdpose(*prepare, "--set", "data.pack_dir=new_packs")
    assert files(old / "new_packs") == written


def test_a_registry_goes_on(old: Path) -> None:
    root = ("--registry", "work_dirs/registry")

    def in_production() -> int:
        shown = json.loads(sdpose("registry", "show", "tiny@production", "--json", *root))
        return int(shown["version"])

    listed = json.loads(sdpose("registry", "list", "tiny", "--json", *root))
    assert [each["version"] for each in listed] == [2, 1]
    sdpose("registry", "verify", *root)
    assert in_production() == 1
    channel = old / "work_dirs/registry/models/tiny/channels/production"
    pointer = read(channel / "pointer.json")
    promote = ("registry", "promote", "tiny", 2, "--channel", "production", "--approver", "lee")
    sdpose(*promote, *root)
    assert in_production() == 2
    assert shape(read(channel / "pointer.json")) == shape(pointer)
    assert shape(read(channel / "history/00000002.json")) == shape(pointer)
    sdpose("registry", "rollback", "tiny", "--channel", "production", *root)
    assert in_production() == 1
    sdpose("registry", "pull", "tiny@staging", "pulled.safetensors", *root)
    register = ("registry", "register", "tiny", "work_dirs/tiny", "--json", *root)
    assert json.loads(sdpose(*register))["version"] == 1, "the same content is the same version"
    sdpose("registry", "verify", *root)


def test_what_waits_for_mlflow_is_delivered(
    old: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    run_id = tracking.start_run("old", params={}, tags={}).run_id
    queue = old / "queue/mlflow_queue.jsonl"
    text = queue.read_text().replace("RUN_ID", run_id).replace(str(PLACE), str(old))
    queue.write_text(text)
    sdpose("sync", "queue")
    assert not queue.exists()
    client = MlflowClient(mlflow_server.uri, mlflow_server.uri)
    losses = client.get_metric_history(run_id, "train/loss")
    assert [(each.step, each.value) for each in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    waiting = [json.loads(line) for line in text.splitlines()]
    times = [each["time"] for each in waiting if "train/loss" in each.get("metrics", ())]
    assert [each.timestamp for each in losses] == times
    assert client.get_run(run_id).data.metrics["AP"] == 0.25
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [each.path for each in client.list_artifacts(run_id, "logs")] == ["logs/tiny.yaml"]


@pytest.mark.timeout(900)  # five processes; 20 s on an idle machine
@pytest.mark.slow
def test_submit_finds_a_run_finished(old: Path, repository: Path) -> None:
    """Its record of steps is read, its training is not done again, and no version is added."""
    records = ("summary.json", "pipeline/run.json", "pipeline/steps/train/record.json")
    before = [read(old / "work_dirs/tiny" / name) for name in records]
    command = [sys.executable, str(repository / "pipelines/submit.py"), "--exp", "tiny.yaml"]
    options = ["--data-root", "data", "--promote", "production", "--set", "promotion.min_ap=0.0"]
    done = subprocess.run(
        [*command, *options], check=False, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("train: runs again: .*code.*", done.stdout), done.stdout
    assert "damaged" not in done.stdout, done.stdout
    assert not (old / "work_dirs/tiny/epoch_2.pth").exists(), "it was trained again"
    assert "model version: tiny version 1\n" in done.stdout
    after = [read(old / "work_dirs/tiny" / name) for name in records]
    for name, ours, theirs in zip(records, after, before, strict=True):
        assert shape(ours) == shape(theirs), name
