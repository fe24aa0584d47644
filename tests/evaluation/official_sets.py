"""The official evaluation's sets: its arrays, and our experiment for each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sdpose.config import Experiment, parse_experiment
from tests.conftest import shared_path
from tests.shipped import ORACLES, REFERENCE

# set -> fixture with its photos and annotations
SETS = {
    "shared_coco4_gt": "coco_4",
    "shared_coco4_det": "coco_4",
    "shared_cocomini_gt": "coco_mini",
}


def official_arrays(name: str, kind: str) -> tuple[dict, dict]:
    """kind: fan, fans or oracle. The arrays (npz) and the facts (json)."""
    stem = f"e2e/{name.rsplit('_', 1)[0]}/e2e_{name}_{kind}"
    folder = REFERENCE if stem in ORACLES else shared_path("reference")
    return dict(np.load(folder / f"{stem}.npz")), json.loads((folder / f"{stem}.json").read_text())


def official_experiment(name: str, root: Path) -> Experiment:
    """S-V1 with the official settings, on the dataset below `root`."""
    return parse_experiment(
        {
            "exp_name": "official",
            "data_root": str(root),
            "data_cfg": {"use_gt_bbox": name.endswith("_gt")},
            "data": {"workers_per_gpu": 0},
        }
    )
