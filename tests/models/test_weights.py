from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_weights import reference_table
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdpose.config import load_experiment
from sdpose.errors import UserError
from sdpose.models import (
    MODELS,
    SDPose,
    build_model,
    convert_weights,
    load_backbone_weights,
    load_model,
    load_weights,
)
from sdpose.models.names import convert_official, to_official
from sdpose.models.weights import apply_weights, read_checkpoint

State = dict[str, Tensor]


@pytest.fixture
def model() -> SDPose:
    torch.manual_seed(0)
    return MODELS["sdpose_t"]()


@pytest.fixture
def other_state(reference_state) -> State:
    """Weights of the same model that differ in every tensor, under our names."""
    return convert_official(reference_state("sdpose_t", "fan"))


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def save(state: State, path: Path, **content: object) -> Path:
    torch.save({"state_dict": state} | content, path)
    return path


LAYOUTS = {
    "own.pth": lambda state, path: save(state, path, meta={"format": "sdpose/1"}, optimizer={}),
    "own.safetensors": save_file,
    "official.pth": lambda state, path: save(to_official(state), path, meta={"epoch": 300}),
    **{
        f"{wrapper}pth": lambda state, path, wrapper=wrapper: save(
            {f"{wrapper}{name}": tensor for name, tensor in to_official(state).items()}, path
        )
        for wrapper in ("module.", "model.", "module._orig_mod.", "student.pose_net.")
    },
    "bare.pth": lambda state, path: torch.save(to_official(state), path),
    "official.safetensors": lambda state, path: save_file(to_official(state), path),
    # mmcv keeps the best AP, a numpy scalar, in `meta`.
    "best.pth": lambda state, path: save(
        to_official(state), path, meta={"hook_msgs": {"best_score": np.float64(0.72)}}
    ),
    "legacy.pth": lambda state, path: torch.save(
        {"state_dict": to_official(state)}, path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_loads(name: str, model: SDPose, other_state: State, tmp_path: Path) -> None:
    LAYOUTS[name](other_state, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_weights(model, tmp_path / name)
    assert same(model.state_dict(), other_state)
    assert set(report.loaded) == set(other_state)
    assert (report.missing, report.unexpected, report.misshapen) == ((), (), {})


def test_a_model_built_without_initial_weights_has_those_of_the_file(
    other_state: State, tmp_path: Path
) -> None:
    path = save(other_state, tmp_path / "t.pth")
    model = load_model(load_experiment("sdpose_t").model, path)
    assert same(model.state_dict(), other_state)


@pytest.mark.parametrize("name", MODELS)
def test_names_map_one_to_one_in_both_directions(name: str, reference_state) -> None:
    official = reference_state(name, "n002")
    ours = convert_official(official)
    assert ours.keys() == MODELS[name]().state_dict().keys()
    assert same(to_official(ours), official)
    assert same(convert_official(to_official(ours)), ours)
    assert convert_official(ours).keys() == ours.keys()


def test_files_are_converted_both_ways_bit_for_bit(other_state: State, tmp_path: Path) -> None:
    official = to_official(other_state)
    source = save(official, tmp_path / "official.pth", meta={"epoch": 300})
    convert_weights(source, tmp_path / "ours.safetensors", "sdpose")
    assert same(load_file(tmp_path / "ours.safetensors"), other_state)
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "again.pth")  # the other way
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert same(again["state_dict"], official)
    convert_weights(source, tmp_path / "ours.pth")
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert same(written["state_dict"], other_state)
    assert written["meta"] == {"epoch": 300, "format": "sdpose/1"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"official.pth", "ours.safetensors", "again.pth", "ours.pth"}


def test_missing_and_misshapen_tensors_are_an_error_that_names_them(
    model: SDPose, other_state: State, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del other_state["layers.3.mlp.fc1.bias"]
    other_state["backbone.conv1.weight"] = torch.zeros(8, 3, 3, 3)
    path = save(other_state, tmp_path / "other.pth")
    with pytest.raises(UserError) as error:
        load_weights(model, path)
    for part in ("layers.3.mlp.fc1.bias", "backbone.conv1.weight", "[8, 3, 3, 3]", str(path)):
        assert part in str(error.value)
    assert same(model.state_dict(), before)

    with pytest.warns(UserWarning, match="1 missing and 1 of another shape") as caught:
        report = load_weights(model, path, strict=False)
    assert report.missing == ("layers.3.mlp.fc1.bias",)
    assert report.misshapen == {"backbone.conv1.weight": ((8, 3, 3, 3), (64, 3, 3, 3))}
    assert all(name in str(caught[0].message) for name in (*report.missing, *report.misshapen))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in report.missing)
    assert all(torch.equal(after[name], before[name]) for name in report.misshapen)
    assert all(torch.equal(after[name], other_state[name]) for name in report.loaded)


def test_names_that_nobody_knows_are_shown_beside_those_that_are_missing(
    model: SDPose, other_state: State, tmp_path: Path
) -> None:
    state = {f"{name}_g": tensor for name, tensor in other_state.items()}  # weight_g: a norm's
    with pytest.raises(UserError) as error:
        load_weights(model, save(state, tmp_path / "x.pth"))
    message = str(error.value)
    assert "missing in the file: keypoint_tokens\n" in message
    assert "unknown to the model: backbone.conv1.weight_g\n" in message
    assert f"and {len(state) - 7} more unknown to the model" in message
    assert message.count("\n") < 20


def test_what_is_loaded_is_said(model: SDPose, other_state: State, tmp_path: Path) -> None:
    path = save(other_state, tmp_path / "t.pth")
    assert load_weights(model, path).summary() == (
        f"{len(other_state)} tensors loaded (4.40 M parameters), none missing, none unused"
    )
    other_state["ema.decay"] = torch.ones(1)
    save(other_state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # for callers that show the report
        said = apply_weights(model, path, *read_checkpoint(path)).summary()
    assert "(4.40 M parameters); 0 missing and 0 of another shape, 1 unknown" in said
    assert said.endswith("\n  unknown to the model: ema.decay")


def test_unexpected_tensors_are_reported(model: SDPose, other_state: State, tmp_path: Path) -> None:
    path = save(other_state | {"keypoint_head.other.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.warns(UserWarning, match=r"keypoint_head\.other\.weight"):
        report = load_weights(model, path)
    assert report.unexpected == ("keypoint_head.other.weight",)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_file_with_code_is_refused_and_not_run(
    write, model: SDPose, other_state: State, tmp_path: Path
) -> None:
    marker, path = tmp_path / "was run", tmp_path / "evil.pth"
    write({"state_dict": {"backbone.conv1.weight": _Evil(marker)}}, path)
    with pytest.raises(UserError, match=r"evil\.pth was refused.*run code"):
        load_weights(model, path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_a_user_error(
    suffix: str, share: float, model: SDPose, other_state: State, tmp_path: Path
) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    LAYOUTS[f"own{suffix}"](other_state, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"damaged|not a readable"):
        load_weights(model, cut)


@pytest.mark.parametrize(
    "content", [torch.ones(3), {"meta": {}}, {"state_dict": {}}, {"state_dict": {"a": 1}}, [1, 2]]
)
def test_a_file_without_weights_is_a_user_error(content, model: SDPose, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth holds no weights"):
        load_weights(model, tmp_path / "file.pth")


def test_a_missing_file_and_a_foreign_target_are_user_errors(
    model: SDPose, other_state: State, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"not found: .*nothing\.pth"):
        load_weights(model, tmp_path / "nothing.pth")
    path = save(other_state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"\.pth or \.safetensors"):
        convert_weights(path, tmp_path / "x.onnx", "official")
    with pytest.raises(UserError, match="cannot write"):
        convert_weights(path, tmp_path / "no folder" / "x.pth", "official")
    foreign = save({"classifier.weight": torch.ones(1)}, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match=r"no part of an SDPose model: classifier\.weight"):
        convert_weights(foreign, tmp_path / "y.pth", "sdpose")


@pytest.fixture
def imagenet_hrnet(reference_dir: Path, tmp_path: Path) -> Path:
    """A file like HRNet-W32's ImageNet weights: names without `backbone.`, stage 1 of 64
    channels, and parts that SDPose-B leaves out."""
    misfits = json.loads((reference_dir / "b_pretrained.json").read_text())["shape_mismatch"]
    state = {}
    for key, shape, dtype in reference_table(reference_dir, "sdpose_b")["state_dict"]:
        if key.startswith("backbone."):
            key = key.removeprefix("backbone.")
            shape = misfits[key][1] if key in misfits else shape
            state[key] = torch.full(shape, 7, dtype=getattr(torch, dtype))
    for key in ("stage4.0.branches.0.0.conv1.weight", "final_layer.0.bias", "classifier.bias"):
        state[key] = torch.ones(3)
    torch.save(state, tmp_path / "hrnet_w32.pth")
    return tmp_path / "hrnet_w32.pth"


def test_imagenet_weights_into_sdpose_b(imagenet_hrnet: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["sdpose_b"]()
    with pytest.warns(UserWarning, match="layer1") as caught:
        report = load_backbone_weights(model, imagenet_hrnet)
    message = str(caught[0].message)
    assert "transition1" in message
    assert len(report.loaded) + len(report.misshapen) == 930
    assert f"{len(report.misshapen)} of another shape" in message
    assert all(name in message for name in report.misshapen)
    assert report.missing == ()
    assert all(
        name.startswith(("backbone.blocks.", "backbone.transition1.")) for name in report.misshapen
    )
    state = model.state_dict()
    assert all((state[name] == 7).all() for name in report.loaded)
    # What stays is initialised as the official code leaves it: PyTorch's default, not N(0, 0.001).
    weight = state["backbone.blocks.1.conv2.weight"]
    assert weight.std().item() == pytest.approx((3 * weight[0].numel()) ** -0.5, rel=0.05)


def test_load_weights_takes_the_same_file_when_not_strict(imagenet_hrnet: Path) -> None:
    model = MODELS["sdpose_b"]()
    with pytest.raises(UserError, match="does not fit the model"):
        load_weights(model, imagenet_hrnet)
    with pytest.warns(UserWarning, match="of another shape"):
        report = load_weights(model, imagenet_hrnet, strict=False)
    assert "keypoint_tokens" in report.missing
    assert "backbone.transition1.0.conv.weight" in report.misshapen
    assert "classifier.bias" in report.unexpected


def test_a_backbone_is_taken_from_a_whole_checkpoint(other_state: State, tmp_path: Path) -> None:
    model = build_model(load_experiment("sdpose_s_v1").model)
    head = {name: tensor.clone() for name, tensor in model.layers.state_dict().items()}
    path = save(to_official(other_state), tmp_path / "t.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone_weights(model, path)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, other_state[f"backbone.{name}"])
    assert same(model.layers.state_dict(), head)


def test_a_file_that_fits_no_backbone_is_a_user_error(model: SDPose, tmp_path: Path) -> None:
    before = model.backbone.conv1.weight.clone()
    path = save({"fc.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"fits the backbone.*fc\.weight"):
        load_backbone_weights(model, path)
    assert torch.equal(model.backbone.conv1.weight, before)
