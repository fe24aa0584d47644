"""What lies in or beside a model's file is a stranger's: a message, no traceback, no allocation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

import sdpose
from sdpose.config import Experiment, dump_experiment
from sdpose.errors import UserError
from sdpose.inference.exported import METADATA, open_exported


@pytest.fixture
def pulled(checkpoint: Path, experiment: Experiment, tmp_path: Path) -> Path:
    """Weights as `sdpose registry pull` leaves them, with what is read of their manifest."""
    path = tmp_path / "model.safetensors"
    save_file(torch.load(checkpoint, weights_only=True)["state_dict"], path)
    content = {"experiment": dump_experiment(experiment)}
    path.with_name(path.name + ".json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b"null", b"5", b'"x"', b"{bad", b"\xff\xfe\x00", b"[" * 100_000),
        *(b'{"experiment": null}', b'{"experiment": []}', b'{"experiment": {}}'),
        b'{"experiment": "{bad"}',
        b'{"experiment": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_damaged_manifest_beside_the_weights(content: bytes, pulled: Path) -> None:
    sdpose.load(pulled)
    manifest = pulled.with_name(pulled.name + ".json")
    manifest.write_bytes(content)
    with pytest.raises(UserError) as refused:
        sdpose.load(pulled)
    assert str(manifest) in str(refused.value)
    assert "--exp" in str(refused.value)


def test_the_experiment_is_not_guessed_from_a_folder(pulled: Path) -> None:
    manifest = pulled.with_name(pulled.name + ".json")
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(UserError, match="give --exp"):
        sdpose.load(pulled)


HUGE = [
    "model.keypoint_head.tokenpose_cfg.dim=1000000000000",
    "model.keypoint_head.tokenpose_cfg.dim=10000",
    "model.keypoint_head.tokenpose_cfg.depth=1000000000",
    "model.keypoint_head.tokenpose_cfg.depth=900",
    "model.keypoint_head.tokenpose_cfg.mlp_ratio=1e30",
    "model.keypoint_head.tokenpose_cfg.heatmap_size=[1000000, 1000000]",
    "model.keypoint_head.tokenpose_cfg.feature_size=[16000000, 12000000]",
    "model.backbone.width=1000000",
    "model.backbone.num_blocks=100000000",
    "model.test_cfg.modulate_kernel=1000000000001",
    "data_cfg.image_size=[100000000, 100000000]",
]


def with_value(text: str, setting: str) -> str:
    import yaml

    content = yaml.safe_load(text)
    path, value = setting.split("=")
    section = content
    *parents, last = path.split(".")
    for part in parents:
        section = section[part]
    section[last] = yaml.safe_load(value)
    return yaml.safe_dump(content)


@pytest.mark.parametrize("setting", HUGE)
def test_a_checkpoint_that_asks_for_more_than_there_is(
    setting: str, checkpoint: Path, experiment: Experiment, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["experiment"] = with_value(dump_experiment(experiment), setting)
    path = tmp_path / "huge.pth"
    torch.save(content, path)
    with pytest.raises(UserError) as refused:
        sdpose.load(path)
    assert str(path) in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sdpose.load(sys.argv[1])", "does not fit the model"),
        # Whoever builds the model first.
        ("sdpose.cli.cli(['registry', 'register', 'm', sys.argv[1]])", "machine's memory"),
    ],
)
def test_the_refusal_needs_no_memory(
    command: str, words: str, checkpoint: Path, experiment: Experiment, tmp_path: Path
) -> None:
    """A model of 3 GB in the checkpoint's meta, a process that may have 1 GB more than it has."""
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["experiment"] = with_value(
        dump_experiment(experiment), "model.keypoint_head.tokenpose_cfg.dim=8192"
    )
    path = tmp_path / "large.pth"
    torch.save(content, path)
    code = (
        "import resource, sys, sdpose, sdpose.cli, sdpose.inference, sdpose.registry.register\n"
        "from sdpose.errors import user_errors\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 2**30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "with user_errors():\n"
        f"    {command}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def small_onnx(path: Path, metadata: str | None, heatmaps: Any = None) -> Path:
    value = onnx.numpy_helper.from_array(
        np.zeros((1, 17, 8, 6), np.float32) if heatmaps is None else heatmaps
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["heatmaps"], value=value)],
        "graph",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_tensor_value_info("heatmaps", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    if metadata is not None:
        onnx.helper.set_model_props(model, {METADATA: metadata})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("metadata", ["[]", "null", "{bad", "5", "[" * 100_000])
def test_a_damaged_description_in_an_exported_file(metadata: str, tmp_path: Path) -> None:
    path = small_onnx(tmp_path / "model.onnx", metadata)
    with pytest.raises(UserError, match=r"model.onnx: its description .* is damaged"):
        sdpose.load(path)


def test_an_exported_file_that_is_another_kind_of_model(tmp_path: Path) -> None:
    image = np.zeros((64, 48, 3), np.uint8)
    bare = small_onnx(tmp_path / "bare.onnx", None)
    with pytest.raises(UserError, match="give --exp NAME"):
        sdpose.load(bare)
    other = small_onnx(tmp_path / "other.onnx", None, np.zeros((3, 5), np.float32))
    with pytest.raises(UserError, match=r"expected heatmaps of shape \(N, 17, h, w\)"):
        sdpose.load(other, exp="sdpose_s_v1")(image)
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be opened"):
        open_exported(tmp_path / "no.onnx")
    with pytest.raises(UserError, match="model not found"):
        sdpose.load(tmp_path / "absent.onnx")
