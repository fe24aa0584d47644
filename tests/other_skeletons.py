"""Datasets of other skeletons, made of one with COCO's joints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sdpose.config.schema import COCO, Skeleton

VAL = "annotations/person_keypoints_val2017.json"
TRAIN = "annotations/person_keypoints_train2017.json"


def write_dataset_of(
    skeleton: Skeleton, source: Path, folder: Path, category: str = "person"
) -> None:
    """A copy of a dataset with COCO's joints that has those of `skeleton` only, in its order."""
    folder.mkdir()
    for entry in source.iterdir():
        if entry.name != "annotations":
            os.symlink(entry.resolve(), folder / entry.name)
    (folder / "annotations").mkdir()
    for name in (TRAIN, VAL):
        document = json.loads((source / name).read_text())
        _relabel(document, skeleton, category)
        (folder / name).write_text(json.dumps(document))


def _relabel(document: dict[str, Any], skeleton: Skeleton, category: str) -> None:
    rows = [COCO.keypoints.index(name) for name in skeleton.keypoints]
    document["categories"] = [
        {
            "id": 1,
            "name": category,
            "keypoints": list(skeleton.keypoints),
            "skeleton": [[a + 1, b + 1] for a, b in skeleton.limb_indices],
        }
    ]
    for annotation in document["annotations"]:
        triples = [annotation["keypoints"][3 * row : 3 * row + 3] for row in rows]
        annotation["keypoints"] = [value for triple in triples for value in triple]
        annotation["num_keypoints"] = sum(triple[2] > 0 for triple in triples)
