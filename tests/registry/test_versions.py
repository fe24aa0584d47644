"""Versions are immutable, numbered once, and never hold other bytes than they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from made import Register, write_checkpoint
from safetensors.torch import load_file
from servers.proxy import FaultProxy
from servers.s3 import S3Server

from sdpose.cli import cli
from sdpose.config import Experiment, experiment_digest
from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.registry import pull, read_version, summarize
from sdpose.registry.register import register_checkpoint
from sdpose.storage import Store


def test_same_content_is_the_same_version(store: Store, register: Register) -> None:
    first = register(1)
    again = register(1, ap=0.5000001, git_commit="def")
    assert (first.version, first.created) == (1, True)
    assert (again.version, again.created) == (1, False)
    assert again.manifest == first.manifest
    assert register(2).version == 2
    assert register(1, evaluation_settings={"bbox_source": "detections"}).version == 3
    assert register(1, dataset_digest="e" * 64).version == 4
    assert [summary["version"] for summary in summarize(store, "tiny")] == [1, 2, 3, 4]
    assert len(list(store.list("blobs"))) == 2


def test_manifest_says_what_the_model_is(
    store: Store, register: Register, experiment: Experiment, tmp_path: Path
) -> None:
    version = register(1)
    manifest = json.loads(store.read("models/tiny/versions/1.json"))
    assert manifest["experiment_digest"] == experiment_digest(experiment)
    assert manifest["git"] == {"commit": "abc", "dirty": True}
    assert manifest["checkpoint"] == {
        "name": "epoch_1.pth",
        "sha256": sha256_of_file(tmp_path / "epoch_1.pth"),
        "epoch": 1,
        "iteration": None,
    }
    model = manifest["model"]
    assert model["input"]["shape"] == ["N", 3, 256, 192]
    assert model["output"]["decoding"]["flip_test"] is True
    assert model["keypoints"]["names"][0] == "nose"
    assert read_version(store, "tiny", 1).manifest == manifest
    with pytest.raises(UserError, match=r"version 7 is not in .*: there are versions 1"):
        read_version(store, "tiny", 7)
    weights = pull(store, "tiny@1", tmp_path / "w.safetensors").weights
    stored = load_file(weights)
    original = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["state_dict"]
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[name], original[name]) for name in stored)
    assert sha256_of_file(weights) == version.sha256


def test_what_the_description_repeats_is_what_the_code_does() -> None:
    from sdpose.data.images import MEAN, STD
    from sdpose.registry import model_description

    assert (tuple(MEAN), tuple(STD)) == (model_description.MEAN, model_description.STD)


def test_weights_of_another_model_are_refused(
    store: Store, register: Register, experiment: Experiment, tmp_path: Path
) -> None:
    other = experiment.model_dump(mode="json")
    other["model"]["keypoint_head"]["tokenpose_cfg"]["depth"] = 2
    from sdpose.config import parse_experiment

    with pytest.raises(UserError, match="does not fit the model"):
        register(1) and register(1, experiment=parse_experiment(other))
    assert len(summarize(store, "tiny")) == 1


def test_the_index_is_only_a_cache(store: Store, register: Register, tmp_path: Path) -> None:
    for seed in range(1, 4):
        register(seed)
    before = summarize(store, "tiny")
    for content in (b"", b"[]", b'{"versions": [{"version": 1}]}'[:-1]):
        store.put("models/tiny/index.json", content)
        assert summarize(store, "tiny") == summarize(store, "tiny", by_index=True) == before
    assert register(2).created is False
    assert register(4).version == 4
    after = summarize(store, "tiny")
    # Of an index that lost a race: it lacks the last, the first, one in between, all but one.
    for known in (after[:3], after[1:], [*after[:1], *after[2:]], after[:1]):
        store.put("models/tiny/index.json", json.dumps({"versions": known}).encode())
        assert summarize(store, "tiny", by_index=True) == after


def test_list_does_not_list_manifests(
    on_s3: str, experiment: Experiment, tmp_path: Path, moto: S3Server, monkeypatch
) -> None:
    """So that the 10,000th version costs no more requests than the third."""
    checkpoint = write_checkpoint(tmp_path / "epoch_1.pth", experiment, 1)
    for model in ("tiny", "other"):
        register_checkpoint(model, checkpoint, experiment=experiment, root=on_s3)
    with FaultProxy.to(moto.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        shown = CliRunner().invoke(cli, ["registry", "list", "tiny", "--registry", on_s3])
    assert shown.exit_code == 0, shown.output
    # three channels, the index, the next number, what was withdrawn
    assert len(proxy.requests) == 6
    assert not [request for request in proxy.requests if "list-type" in request.path]


def test_pull_replaces_whole_files_and_needs_only_the_store(
    root: str, store: Store, register: Register, tmp_path: Path
) -> None:
    version = register(1)
    out = tmp_path / "device" / "model.safetensors"
    out.parent.mkdir()
    out.write_bytes(b"the model before")
    code = (
        "import sys; from pathlib import Path; from sdpose.storage import open_store;"
        "from sdpose.registry import pull;"
        f"pull(open_store({root!r}), 'tiny@1', Path({str(out)!r}));"
        "print(sorted({'torch', 'mlflow', 'boto3', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    needed = ["boto3"] if root.startswith("s3") else []
    assert result.stdout.strip() == str(needed), result.stderr
    assert sha256_of_file(out) == version.sha256
    assert json.loads((out.parent / "model.safetensors.json").read_text()) == version.manifest
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "model.safetensors",
        "model.safetensors.json",
    ]
    for reference, message in {
        "tiny": "names no version",
        "tiny@production": "is empty",
        "tiny@prod": "there is no channel",
        "../x@1": "cannot name a model",
    }.items():
        with pytest.raises(UserError, match=message):
            pull(store, reference, out)
