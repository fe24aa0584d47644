"""Versions are immutable, numbered once, and never hold other bytes than they say."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path
from typing import Any

import pytest

from sdpose.config import experiment_digest, load_experiment
from sdpose.errors import UserError
from sdpose.registry import (
    ModelVersion,
    list_versions,
    read_version,
    register_checkpoint,
    verify_version,
)
from sdpose.storage import DamagedObjectError

EXPERIMENT = load_experiment("quickstart")


def register(root: Path, checkpoint: Path, **changes: Any) -> ModelVersion:
    arguments: dict[str, Any] = {
        "experiment": EXPERIMENT,
        "dataset_digest": "d" * 64,
        "metrics": {"AP": 0.5},
        "evaluation_settings": {"bbox_source": "ground truth"},
        "root": root,
    }
    return register_checkpoint("quickstart", checkpoint, **arguments | changes)


def write_checkpoint(folder: Path, content: int) -> Path:
    path = folder / f"epoch_{content}.pth"
    path.write_bytes(random.Random(content).randbytes(3_000_000))
    return path


def test_same_content_is_the_same_version(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    first = register(tmp_path / "r", checkpoint, git_commit="abc")
    again = register(tmp_path / "r", checkpoint, git_commit="def", metrics={"AP": 0.5000001})
    assert (first.version, first.created) == (1, True)
    assert (again.version, again.created) == (1, False)
    assert again.manifest == first.manifest

    other_settings = {"bbox_source": "detections"}
    assert register(tmp_path / "r", write_checkpoint(tmp_path, 2)).version == 2
    assert register(tmp_path / "r", checkpoint, evaluation_settings=other_settings).version == 3
    assert register(tmp_path / "r", checkpoint, dataset_digest="e" * 64).version == 4
    assert [v.version for v in list_versions("quickstart", tmp_path / "r")] == [1, 2, 3, 4]
    assert len(list((tmp_path / "r/blobs/sha256").iterdir())) == 2


def test_manifest_says_what_the_checkpoint_is(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    version = register(tmp_path / "r", checkpoint, git_commit="abc")
    assert version.manifest_uri == (tmp_path / "r/models/quickstart/versions/1.json").as_uri()
    manifest = json.loads((tmp_path / "r/models/quickstart/versions/1.json").read_text())
    assert manifest["version"] == 1
    assert manifest["checkpoint"]["size"] == 3_000_000
    assert manifest["checkpoint_name"] == "epoch_1.pth"
    assert manifest["experiment_digest"] == experiment_digest(EXPERIMENT)
    assert manifest["metrics"] == {"AP": 0.5}
    assert manifest["git_commit"] == "abc"
    assert read_version("quickstart", 1, tmp_path / "r").manifest == manifest
    with pytest.raises(UserError, match=r"version 7 is not in .*: there are versions 1"):
        read_version("quickstart", 7, tmp_path / "r")


def test_copy_is_independent_of_the_work_dir(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    content = checkpoint.read_bytes()
    version = register(tmp_path / "r", checkpoint)
    checkpoint.write_bytes(b"trained on")  # in place, so that a link would change too
    verify_version("quickstart", 1, tmp_path / "r")
    assert Path(version.checkpoint_uri.removeprefix("file://")).read_bytes() == content


def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    version = register(tmp_path / "r", checkpoint)
    blob = tmp_path / "r/blobs/sha256" / version.sha256
    damaged = bytearray(blob.read_bytes())
    damaged[1_500_000] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(damaged)
    with pytest.raises(DamagedObjectError, match=version.sha256):
        verify_version("quickstart", 1, tmp_path / "r")
    assert register(tmp_path / "r", checkpoint).version == 1
    verify_version("quickstart", 1, tmp_path / "r")
    blob.unlink()
    with pytest.raises(DamagedObjectError, match="missing"):
        verify_version("quickstart", 1, tmp_path / "r")


def test_unusable_root(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        register(tmp_path / "file", checkpoint)
    with pytest.raises(UserError, match="s3:// is not supported as a store yet"):
        register("s3://bucket/registry", checkpoint)  # type: ignore[arg-type]


def _register_all(root: Path, checkpoints: list[Path], seed: int, barrier: Any, found: Any) -> None:
    random.Random(seed).shuffle(checkpoints)
    barrier.wait()
    for checkpoint in checkpoints:
        version = register(root, checkpoint)
        found.put((checkpoint.name, version.version, version.created))


def test_processes_at_once(tmp_path: Path) -> None:
    """8 processes, each with the same 4 checkpoints: 4 versions, each made once."""
    context = multiprocessing.get_context("fork")
    checkpoints = [write_checkpoint(tmp_path, content) for content in range(4)]
    barrier, found = context.Barrier(8), context.Queue()
    processes = [
        context.Process(
            target=_register_all, args=(tmp_path / "r", list(checkpoints), seed, barrier, found)
        )
        for seed in range(8)
    ]
    for process in processes:
        process.start()
    answers = [found.get(timeout=60) for _ in range(8 * 4)]
    for process in processes:
        process.join()
        assert process.exitcode == 0

    assert [v.version for v in list_versions("quickstart", tmp_path / "r")] == [1, 2, 3, 4]
    numbers = {(name, version) for name, version, _ in answers}
    assert {name for name, _ in numbers} == {path.name for path in checkpoints}
    assert len(numbers) == 4, "two numbers for one checkpoint"
    assert sum(created for *_, created in answers) == 4
    for number in range(1, 5):
        verify_version("quickstart", number, tmp_path / "r")
    assert not list((tmp_path / "r").rglob(".*")), "temporary files were left"
