"""Digests name experiments, datasets, packs and versions: a changed one is another thing.

The dataset is that of `sdpose synth`, whose bytes depend on the version of OpenCV, too. The weights
of the version come from a formula, not from a random generator.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from snapshots.snapshot import FOLDER, assert_unchanged

from sdpose.cli import cli
from sdpose.config import (
    dump_experiment,
    experiment_digest,
    experiments_dir,
    load_experiment,
)
from sdpose.models import build_model
from sdpose.registry import read_version
from sdpose.storage import open_store
from sdpose.sweeps import expand, load_sweep

TINY = FOLDER.parent / "pipelines" / "tiny.yaml"


@pytest.fixture(autouse=True)
def nothing_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SDPOSE_EXPERIMENTS", "SDPOSE_IMAGE", "SDPOSE_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_experiments() -> None:
    names = sorted(path.stem for path in experiments_dir().glob("*.yaml"))
    lines = [f"{name} {experiment_digest(load_experiment(name))}" for name in names]
    assert_unchanged("experiments.txt", "\n".join(lines) + "\n")


def test_trials_of_sweeps() -> None:
    lines = []
    for path in sorted(Path(experiments_dir().parent, "sweeps").glob("*.yaml")):
        trials = expand(load_sweep(path.stem), rungs=f"work_dirs/sweeps/{path.stem}/rungs")
        lines += [f"{each.name} {experiment_digest(each.experiment)}" for each in trials]
    assert_unchanged("trials.txt", "\n".join(lines) + "\n")


def test_dataset_and_pack(tmp_path: Path) -> None:
    run("synth", tmp_path / "data", "--train", 6, "--val", 2, "--seed", 0)
    packs = tmp_path / "packs"
    prepare = ["prepare", TINY, "--data-root", tmp_path / "data", "--json"]
    pack = ["--set", "data.pipeline=fast", "--set", f"data.pack_dir={packs}"]
    digests = {json.loads(run(*prepare, *more))["digest"] for more in ([], pack)}
    (key,) = (path.name for path in packs.iterdir() if path.is_dir())
    files = {p.name: p.stat().st_size for p in sorted((packs / key).iterdir()) if p.name[0] != "."}
    text = json.dumps({"dataset": sorted(digests), "pack": key, "files": files}, indent=1)
    assert_unchanged("dataset.json", text + "\n")


def test_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # work_dirs/mlflow.db would be found
    experiment = load_experiment(TINY)
    state = build_model(experiment.model).state_dict()
    for tensor in state.values():
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) / 1024)
    meta = {"format": "sdpose/1", "epoch": 1, "experiment": dump_experiment(experiment)}
    torch.save({"state_dict": state, "meta": meta}, "epoch_1.pth")
    run("registry", "register", "tiny", "epoch_1.pth", "--registry", tmp_path / "registry")
    manifest = read_version(open_store(tmp_path / "registry"), "tiny", 1).manifest
    for name in ("checkpoint", "git", "registered_at", "sdpose_version", "sealed_sha256"):
        del manifest[name]  # these differ from run to run, or from release to release
    assert_unchanged("version.yaml", yaml.safe_dump(manifest, width=100))
