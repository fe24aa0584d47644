"""Numbers and schemas of ../shared that the tests carry, and how they got here.

`python tests/shipped.py` writes them again. Photos, and arrays that hold their pixels, stay in
../shared: the licences of the photos are their authors'.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS / "reference"
CRDS = TESTS / "third_party" / "crds"
KFP_API = TESTS / "third_party" / "kfp-api"

ORACLES = tuple(
    f"e2e/{name.rsplit('_', 1)[0]}/e2e_{name}_oracle"
    for name in ("shared_coco4_gt", "shared_coco4_det", "shared_cocomini_gt")
)
TABLES = (
    "b_pretrained",
    "data",
    "model_sdpose_b_hr32_table",
    "model_sdpose_s_v1_stemnet",
    "model_sdpose_s_v2_stemnet_table",
    "model_sdpose_t",
    "e2e/fans_weights",
    *ORACLES,
)
ARRAYS = (
    "data",
    "model_sdpose_b_hr32_feature",
    "model_sdpose_s_v1_stemnet",
    "model_sdpose_t",
    "e2e/fans_weights",
    *ORACLES,
)
# Of data.npz and data.json.
PIXELS = {"crop_r0", "crop_r30", "norm_samples_r0", "norm_samples_r30", "train_img_samples"}
PIXELS |= {"first_pixel"}


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What an .npz file has, but for pixels."""
    with np.load(path) as found:
        return {name: found[name] for name in found.files if name not in PIXELS}


def table(path: Path) -> Any:
    """What a .json file has, but for pixels."""
    return json.loads(path.read_text(), object_pairs_hook=_without_pixels)


def _without_pixels(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if name not in PIXELS}


def schemas(shared: Path) -> dict[Path, Path]:
    """Each shipped schema, and the file it is a copy of."""
    return {
        shipped / path.relative_to(shared / folder): path
        for folder, shipped in (("crds", CRDS), ("kfp-api", KFP_API))
        for path in sorted((shared / folder).rglob("*.*"))
        if path.suffix in (".yaml", ".json")
    }


def ship(shared: Path) -> None:
    for name in TABLES:
        text = json.dumps(table(shared / f"reference/{name}.json"), separators=(",", ":"))
        target = REFERENCE / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")
    for name in ARRAYS:
        np.savez_compressed(REFERENCE / f"{name}.npz", **arrays(shared / f"reference/{name}.npz"))
    for target, path in schemas(shared).items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


if __name__ == "__main__":
    ship(Path(sys.argv[1]) if sys.argv[1:] else TESTS.parents[1] / "shared")
