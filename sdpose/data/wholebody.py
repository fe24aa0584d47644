"""The parts of COCO-WholeBody's 133 keypoints, and its annotation files.

The official files keep a person's parts in separate keys, and COCO's 17 keypoints in the category:
https://github.com/jin-s13/COCO-WholeBody/blob/master/data_format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.joint_names import same_joints
from sdpose.data.tables import Problems


@dataclass(frozen=True)
class Part:
    """Consecutive keypoints of the 133: [start, stop)."""

    name: str
    key: str  # in the annotations of the official files
    start: int
    stop: int

    @property
    def num_keypoints(self) -> int:
        return self.stop - self.start


PARTS = (
    Part("body", "keypoints", 0, 17),
    Part("foot", "foot_kpts", 17, 23),
    Part("face", "face_kpts", 23, 91),
    Part("left hand", "lefthand_kpts", 91, 112),
    Part("right hand", "righthand_kpts", 112, 133),
)
BODY = PARTS[0]


def is_wholebody(skeleton: Skeleton) -> bool:
    """Return whether a skeleton is COCO-WholeBody's: 133 keypoints, the first 17 are COCO's."""
    return skeleton.num_keypoints == PARTS[-1].stop and same_joints(
        skeleton.keypoints[: BODY.stop], COCO.keypoints
    )


def join_parts(document: dict[str, Any], skeleton: Skeleton, problems: Problems) -> dict[str, Any]:
    """Return a COCO document whose annotations have all parts in `keypoints`.

    Documents without separate parts are returned as they are. A part that an annotation lacks is
    not annotated. `num_keypoints`, which counts the body's alone, is removed: a person counts if
    any part is labelled, as in COCO-WholeBody's evaluation. The flags `*_valid` are not read:
    the keypoints of an invalid part are zeros.

    Args:
        document: with the lists `annotations` and `categories`.
        skeleton: COCO-WholeBody's.
        problems: gets the annotations whose parts have a wrong length.
    """
    rows = document["annotations"]
    if not any(isinstance(row, dict) and _is_split(row) for row in rows):
        return document
    wrong: dict[str, list[str]] = {part.key: [] for part in PARTS}
    joined = []
    for row in rows:
        if not isinstance(row, dict) or not any(part.key in row for part in PARTS):
            joined.append(row)
            continue
        keypoints: list[Any] = []
        for part in PARTS:
            values = row.get(part.key, [0.0] * (3 * part.num_keypoints))
            if not isinstance(values, list) or len(values) != 3 * part.num_keypoints:
                wrong[part.key].append(f"annotation {row.get('id')}")
                values = [0.0] * (3 * part.num_keypoints)
            keypoints += values
        row = {key: value for key, value in row.items() if key != "num_keypoints"}
        joined.append(row | {"keypoints": keypoints})
    for part in PARTS:
        problems.add(
            f"annotations whose '{part.key}' is not a list of {3 * part.num_keypoints} numbers "
            f"(x, y, v of {part.num_keypoints} keypoints)",
            wrong[part.key],
        )
    categories = [
        category | {"keypoints": list(skeleton.keypoints)}
        if isinstance(category, dict) and _names_body(category, skeleton)
        else category
        for category in document["categories"]
    ]
    return document | {"annotations": joined, "categories": categories}


def _is_split(row: dict[str, Any]) -> bool:
    """Whether an annotation has parts, and not all keypoints in `keypoints` as well."""
    whole = row.get("keypoints")
    return any(part.key in row for part in PARTS[1:]) and not (
        isinstance(whole, list) and len(whole) == 3 * PARTS[-1].stop
    )


def _names_body(category: dict[str, Any], skeleton: Skeleton) -> bool:
    names = category.get("keypoints")
    return isinstance(names, list) and same_joints(names, skeleton.keypoints[: BODY.stop])
