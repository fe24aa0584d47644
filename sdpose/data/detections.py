"""Load the person boxes of a detector from COCO result files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdpose.data.coco import Boxes, CocoAnnotations
from sdpose.data.tables import Problems, floats, integers, kind_of, read_json
from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.printable import printable_line


@dataclass(frozen=True)
class Detections(Boxes):
    """Boxes of a detector, and the numbers of rows of its file that were skipped."""

    num_other_images: int  # of images that the annotation file does not have
    num_empty: int  # without width or height


def load_detections(
    path: str | Path, annotations: CocoAnnotations, score_threshold: float = 0.0
) -> Detections:
    """Load the person boxes with score >= score_threshold, in file order and not clipped.

    Args:
        path: COCO detection results, a list of {image_id, category_id, bbox, score}.
        annotations: rows of other images are skipped and counted, as are boxes without width or
            height.
        score_threshold: 0..1.
    Raises:
        UserError: lists every problem; or no row is of these images.
    """
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected a list of detections {{image_id, category_id, bbox, score}}, "
            f"found {kind_of(rows)}"
        )
    problems = Problems()
    keys = ("image_id", "category_id", "bbox", "score")
    bad = [
        i for i, row in enumerate(rows) if not isinstance(row, dict) or not row.keys() >= {*keys}
    ]
    problems.add(f"detections without {', '.join(keys)}", (f"index {i}" for i in bad))
    problems.stop(path, "unusable detections")

    wanted = annotations.person_category["id"]
    index = [i for i, row in enumerate(rows) if row["category_id"] in annotations.category_ids]
    persons = [rows[i] for i in index]
    if not persons:
        name = annotations.person_category.get("name")
        found = Counter(describe(row["category_id"]) for row in rows)
        there = ", ".join(f"{category} ({n} rows)" for category, n in found.most_common(5))
        raise UserError(
            f"{path}: no detection of category {wanted} ({printable_line(str(name))}); "
            + (f"category_id must be {wanted}, found {there}" if there else "the list is empty")
        )
    names = [f"index {i}" for i in index]
    image_ids = integers([row["image_id"] for row in persons], "image_id", names, problems)
    boxes = floats([row["bbox"] for row in persons], 4, "bbox", names, problems)
    scores = floats([[row["score"]] for row in persons], 1, "score", names, problems)[:, 0]
    problems.stop(path, "unusable detections")

    index_of = {image_id: i for i, image_id in enumerate(annotations.image_ids.tolist())}
    image_index = np.array([index_of.get(i, -1) for i in image_ids.tolist()], dtype=np.int64)
    known = image_index >= 0
    if not known.any():
        raise UserError(
            f"{path}: none of its {len(persons)} person detections is of an image of "
            f"{annotations.path}: the two files are of different sets"
        )
    scored = scores >= score_threshold
    whole = (boxes[:, 2:] > 0).all(axis=1)
    used = known & scored & whole
    return Detections(
        image_index=image_index[used],
        image_id=image_ids[used],
        key=np.array(index, dtype=np.int64)[used],
        boxes_xywh=boxes[used],
        box_score=scores[used],
        num_other_images=int((~known).sum()),
        num_empty=int((known & scored & ~whole).sum()),
    )
