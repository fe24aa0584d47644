"""Weights by formula, as reference/README.md describes them: `n002`, `fan`, `fans`."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Reference tables by the names of our models.
REFERENCE_FILES = {
    "sdpose_t": "model_sdpose_t.json",
    "sdpose_s_v1": "model_sdpose_s_v1_stemnet.json",
    "sdpose_s_v2": "model_sdpose_s_v2_stemnet_table.json",
    "sdpose_b": "model_sdpose_b_hr32_table.json",
}


def reference_table(reference_dir: Path, name: str) -> dict:
    return json.loads((reference_dir / REFERENCE_FILES[name]).read_text())


def official_state(table: dict, variant: str, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under official names; `initial` (official names too) gives the constant ones."""
    state = {}
    for key, shape, _ in table["state_dict"]:
        if key.endswith(("num_batches_tracked", "pos_embedding")):
            state[key] = initial[key].clone()
            continue
        noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        if variant == "fan" and len(shape) >= 2 and not key.endswith("keypoint_token"):
            kind = "conv4d_gain" if len(shape) == 4 else "linear2d_gain"
            value = noise * np.sqrt(table["fan_rule"][kind] / math.prod(shape[1:]))
        elif key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(noise)
        elif key.endswith(".weight") and len(shape) == 1:
            value = 1 + 0.02 * noise
        else:
            value = 0.02 * noise
        state[key] = torch.from_numpy(value.astype(np.float32))
    return state


def smooth_fans(reference_dir: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`fans` from the S-V1 `fan` state: smooth, image-dependent heatmaps (reference/README.md)."""
    keys = json.loads((reference_dir / "e2e" / "fans_weights.json").read_text())
    kernel = np.exp(-((np.arange(11) - 5) ** 2) / 8)
    kernel /= np.sqrt((kernel**2).sum())
    weight = state[keys["weight_key"]].double().numpy().reshape(64, 48, -1)
    for axis in (0, 1):
        weight = np.apply_along_axis(np.convolve, axis, weight, kernel, mode="same")
    bias = np.load(reference_dir / "e2e" / "fans_weights.npz")["bias"]
    return state | {
        keys["weight_key"]: torch.from_numpy(weight.reshape(3072, -1).astype(np.float32)),
        keys["bias_key"]: torch.from_numpy(bias),
    }
