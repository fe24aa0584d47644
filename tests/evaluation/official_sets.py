"""The sets of reference/e2e: arrays of the official evaluation, and our experiment for each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sdpose.config import Experiment, parse_experiment

# set -> folder in shared/data
SETS = {
    "shared_coco4_gt": "coco-4",
    "shared_coco4_det": "coco-4",
    "shared_cocomini_gt": "coco-mini",
}


def official_arrays(reference_dir: Path, name: str, kind: str) -> tuple[dict, dict]:
    """kind: fan, fans or oracle. The arrays (npz) and the facts (json)."""
    stem = reference_dir / "e2e" / name.rsplit("_", 1)[0] / f"e2e_{name}_{kind}"
    return dict(np.load(f"{stem}.npz")), json.loads(Path(f"{stem}.json").read_text())


def official_experiment(reference_dir: Path, name: str) -> Experiment:
    """S-V1 with the official settings."""
    return parse_experiment(
        {
            "exp_name": "official",
            "data_root": str(reference_dir.parent / "data" / SETS[name]),
            "data_cfg": {"use_gt_bbox": name.endswith("_gt")},
            "data": {"workers_per_gpu": 0},
        }
    )
