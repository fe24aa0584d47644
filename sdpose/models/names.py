"""Translate between our parameter names and the official code's, by one table."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Official module on the left, ours on the right; `#` stands for a number that is kept. The suffix
# (weight, bias, running_mean ...) is the same on both sides.
_HEAD = "keypoint_head.tokenpose"
_LAYER = f"{_HEAD}.transformer_layer1.layers.#"
NAMES = (
    ("backbone.conv#", "backbone.conv#"),
    ("backbone.bn#", "backbone.norm#"),
    ("backbone.layer1.#.conv#", "backbone.blocks.#.conv#"),
    ("backbone.layer1.#.bn#", "backbone.blocks.#.norm#"),
    ("backbone.layer1.#.downsample.0", "backbone.blocks.#.shortcut.conv"),
    ("backbone.layer1.#.downsample.1", "backbone.blocks.#.shortcut.norm"),
    # HRNet. The first branch keeps its resolution; officially the others are chains of one step.
    ("backbone.transition#.0.0", "backbone.transition#.0.conv"),
    ("backbone.transition#.0.1", "backbone.transition#.0.norm"),
    ("backbone.transition#.#.0.0", "backbone.transition#.#.conv"),
    ("backbone.transition#.#.0.1", "backbone.transition#.#.norm"),
    ("backbone.stage#.#.branches.#.#.conv#", "backbone.stage#.#.branches.#.#.conv#"),
    ("backbone.stage#.#.branches.#.#.bn#", "backbone.stage#.#.branches.#.#.norm#"),
    ("backbone.stage#.#.fuse_layers.#.#.0", "backbone.stage#.#.fuse.#.#.conv"),
    ("backbone.stage#.#.fuse_layers.#.#.1", "backbone.stage#.#.fuse.#.#.norm"),
    ("backbone.stage#.#.fuse_layers.#.#.#.0", "backbone.stage#.#.fuse.#.#.#.conv"),
    ("backbone.stage#.#.fuse_layers.#.#.#.1", "backbone.stage#.#.fuse.#.#.#.norm"),
    (f"{_HEAD}.keypoint_token", "keypoint_tokens"),
    (f"{_HEAD}.pos_embedding", "position_embedding"),
    (f"{_HEAD}.patch_to_embedding", "patch_embedding"),
    (f"{_LAYER}.0.fn.norm", "layers.#.attention_norm"),
    (f"{_LAYER}.0.fn.fn.to_qkv", "layers.#.attention.qkv"),
    (f"{_LAYER}.0.fn.fn.to_out.0", "layers.#.attention.out"),
    (f"{_LAYER}.1.fn.norm", "layers.#.mlp_norm"),
    (f"{_LAYER}.1.fn.fn.net.0", "layers.#.mlp.fc1"),
    (f"{_LAYER}.1.fn.fn.net.3", "layers.#.mlp.fc2"),
    (f"{_HEAD}.mlp_head.0", "heatmap_head.norm1"),
    (f"{_HEAD}.mlp_head.1", "heatmap_head.fc1"),
    (f"{_HEAD}.mlp_head.2", "heatmap_head.norm2"),
    (f"{_HEAD}.mlp_head.3", "heatmap_head.fc2"),
)
_TENSOR = r"(\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    numbers = source.count("#")
    pattern = re.escape(source).replace(r"\#", r"(\d+)") + _TENSOR
    for group in range(1, numbers + 1):
        target = target.replace("#", rf"\g<{group}>", 1)
    return re.compile(pattern), target + rf"\g<{numbers + 1}>"


_TO_OURS = [_compile(official, ours) for official, ours in NAMES]
_TO_OFFICIAL = [_compile(ours, official) for official, ours in NAMES]


def _translate(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rules:
        if pattern.fullmatch(name):
            return pattern.sub(target, name)  # match.expand would parse the target on every call
    return None


def our_name(name: str) -> str | None:
    """Translate a tensor name to ours; None if it is unknown.

    Accepts official names, official ones without `backbone.` (files of a backbone alone), and ours.

    >>> our_name("backbone.layer1.0.bn2.running_var")
    'backbone.blocks.0.norm2.running_var'
    >>> our_name("layer1.3.conv1.weight")
    'backbone.blocks.3.conv1.weight'
    """
    if _translate(name, _TO_OFFICIAL):
        return name
    return _translate(name, _TO_OURS) or _translate(f"backbone.{name}", _TO_OURS)


def official_name(name: str) -> str | None:
    """Translate one of our tensor names to the official one; None if it is not one of ours.

    >>> official_name("layers.11.mlp.fc2.bias")
    'keypoint_head.tokenpose.transformer_layer1.layers.11.1.fn.fn.net.3.bias'
    """
    return _translate(name, _TO_OFFICIAL)


def convert_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict to our names; unknown names are kept."""
    return {our_name(name) or name: tensor for name, tensor in state.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict from our names to the official ones; unknown names are kept."""
    return {official_name(name) or name: tensor for name, tensor in state.items()}
