"""Made-up annotation sets and poses of any skeleton, for comparison with other evaluations."""

from __future__ import annotations

import json

import numpy as np

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.wholebody import PARTS

# https://github.com/Jeff-sjtu/CrowdPose, crowdposetools/cocoeval.py, and its annotation files.
CROWDPOSE = Skeleton(
    keypoints=(
        *(
            f"{side}_{part}"
            for part in ("shoulder", "elbow", "wrist")
            for side in ("left", "right")
        ),
        *(f"{side}_{part}" for part in ("hip", "knee", "ankle") for side in ("left", "right")),
        *("head", "neck"),
    ),
    sigmas=(
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
        *(0.079, 0.079),
    ),
)


def wholebody_skeleton(sigmas) -> Skeleton:
    """COCO-WholeBody's shape, with sigmas of the caller."""
    names = [f"{part.key}_{i}" for part in PARTS[1:] for i in range(part.num_keypoints)]
    return Skeleton(keypoints=(*COCO.keypoints, *names), flip_pairs=(), sigmas=tuple(sigmas))


def annotation_set(
    skeleton: Skeleton, seed: int, *, num_images: int = 30, crowd_index: bool = False
) -> dict:
    """A COCO document: up to six persons an image, of all sizes, some crowds, some joints and some
    persons not labelled."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for index in range(num_images):
        image = {"id": 3 * index + 7, "file_name": f"{index}.jpg", "width": 900, "height": 700}
        if crowd_index:  # as in CrowdPose, two digits; the limits of the levels occur
            image["crowdIndex"] = float(rng.choice([0.0, 0.1, 0.19, 0.2, 0.5, 0.79, 0.8, 1.0]))
        images.append(image)
        for _ in range(rng.integers(0, 7)):
            width, height = rng.uniform(20, 300, 2)
            x, y = rng.uniform(0, 900 - width), rng.uniform(0, 700 - height)
            points = rng.random((skeleton.num_keypoints, 2)) * [width, height] + [x, y]
            flags = rng.choice([0, 1, 2], skeleton.num_keypoints, p=[0.3, 0.2, 0.5])
            flags *= rng.random() < 0.9
            points[flags == 0] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": width * height * rng.uniform(0.3, 0.7),
                    "iscrowd": int(rng.random() < 0.05),
                    "num_keypoints": int((flags > 0).sum()),
                    "keypoints": np.column_stack([points, flags]).ravel().tolist(),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoints), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def found_poses(document: dict, seed: int) -> list[dict]:
    """COCO results: poses near the truth, duplicates and false alarms, with scores that tie."""
    rng = np.random.default_rng(seed)
    results = []
    for row in document["annotations"]:
        for _ in range(rng.integers(0, 4)):
            truth = np.array(row["keypoints"]).reshape(-1, 3)[:, :2]
            anywhere = rng.random(truth.shape) * row["bbox"][2:] + row["bbox"][:2]
            points = np.where(truth > 0, truth, anywhere)
            points = points + rng.standard_normal(truth.shape) * rng.lognormal(1.3, 1.0)
            scores = rng.uniform(0.05, 1, len(points))
            results.append(
                {
                    "image_id": row["image_id"],
                    "category_id": 1,
                    "keypoints": np.column_stack([points, scores]).ravel().tolist(),
                    "score": float(rng.integers(1, 20) / 20),
                }
            )
    return results


def write_set(folder, document):
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def in_parts(entry: dict) -> dict:
    """An annotation or result with COCO-WholeBody's separate keys."""
    whole = entry["keypoints"]
    parts = {part.key: whole[3 * part.start : 3 * part.stop] for part in PARTS}
    return entry | parts
