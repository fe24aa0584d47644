"""Rules that select the annotated persons to train on, and the reasons for skipping the others.

The rules are those of mmpose 0.29's `TopDownCocoDataset`. In COCO they drop nobody whose joints are
labelled; in files of other tools, a single rule may drop every person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = "kept"
CROWD = "crowd"
UNLABELLED = "without labelled joints"
NO_FLAGS = "whose joints have coordinates but v 0"
NO_COUNT = "with num_keypoints 0 although joints are labelled"
HIDDEN = "whose labelled joints are all hidden"  # num_keypoints 0 in CrowdPose: it counts v 2
NO_AREA = "with area 0 or less"
NO_BOX = "whose box is empty within the image"
OTHER = "of another category"
OTHER_LABELLED = "of another category although joints are labelled"
NO_CATEGORY = "whose category_id is no integer"

# In this order: an annotation counts for the first rule that drops it.
_RULES = (KEPT, CROWD, UNLABELLED, NO_FLAGS, NO_COUNT, NO_BOX, NO_AREA)

# For the rules that drop labelled persons. {id}: of the person category.
_REMEDIES = {
    NO_FLAGS: "write v as 2 (visible) or 1 (hidden); 0 is a joint that is not annotated",
    NO_COUNT: "write the number of joints with v > 0, or remove the key num_keypoints",
    NO_AREA: "write the area in square pixels, or remove the key area: width x height of the box "
    "is taken then",
    NO_BOX: "write bbox as [x, y, width, height] in pixels of the image",
    OTHER_LABELLED: "if they are persons, give them the person's category_id, {id}",
    NO_CATEGORY: "write it as a number, without quotes: the person's is {id}",
}


def rule_of(
    *,
    iscrowd: NDArray[np.bool_],
    keypoints: NDArray[np.float64],
    num_keypoints: NDArray[np.int64],
    areas: NDArray[np.float64],
    has_box: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return, for each of A annotations, the index of the first rule that drops it; 0 = kept.

    Args:
        keypoints: [A, K, 3].
        areas: pixels².
        has_box: whether the box is not empty once clipped to the image.
    """
    labelled = (keypoints[:, :, 2] > 0).any(axis=1)
    blank = ~(keypoints > 0).any(axis=(1, 2))
    dropped = (
        iscrowd,
        blank,
        (num_keypoints <= 0) & ~labelled,
        num_keypoints <= 0,
        ~has_box,
        areas <= 0,
    )
    return np.select(dropped, range(1, len(_RULES)), default=0).astype(np.int64)


def count_left_out(rules: NDArray[np.int64], others: Mapping[str, int]) -> dict[str, int]:
    """Count the skipped annotations by reason; `others` are those of `count_others`."""
    counts = Counter(_RULES[rule] for rule in rules.tolist() if rule)
    return dict(counts) | {reason: count for reason, count in others.items() if count}


def count_others(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count the annotations of other categories than person, by reason."""
    counts: Counter[str] = Counter()
    for row in rows:
        joints = row.get("keypoints")
        flags = joints[2::3] if isinstance(joints, list) else []
        if any(isinstance(v, int | float) and v > 0 for v in flags):
            counts[OTHER_LABELLED if type(row["category_id"]) is int else NO_CATEGORY] += 1
        else:
            counts[OTHER] += 1
    return dict(counts)


def describe_left_out(counts: Mapping[str, int]) -> str:
    """
    >>> describe_left_out({"crowd": 2, "with area 0 or less": 1})
    '2 crowd, 1 with area 0 or less'
    """
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def lost_persons(counts: Mapping[str, int], category_id: int) -> list[str]:
    """List the reasons that drop persons whose joints are labelled, each with the remedy."""
    return [
        f"{count} labelled {'person is' if count == 1 else 'persons are'} left out, {reason}: "
        + _REMEDIES[reason].format(id=category_id)
        for reason, count in counts.items()
        if reason in _REMEDIES
    ]
