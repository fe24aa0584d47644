"""What CrowdPose's annotation files have that COCO's have not, and the other way round.

Li et al., "CrowdPose", CVPR 2019; https://github.com/Jeff-sjtu/CrowdPose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdpose.data.tables import Floats, Problems, floats

# The files have no segments: crowdposetools' evaluation takes this share of the box as the area,
# and mmpose 0.29 does so even if an area is given (use_area=False).
AREA_OF_BOX = 0.53


def crowd_indices(
    rows: Sequence[dict[str, Any]], names: Sequence[str], problems: Problems
) -> Floats | None:
    """Read `crowdIndex` of the images, [I] in 0..1; None if no image has one.

    Some with and some without is a problem: the level of the others would be unknown.
    """
    if not any("crowdIndex" in row for row in rows):
        return None
    meaning = "CrowdPose's, 0 to 1; or remove it from all images for COCO's evaluation"
    values = [[row.get("crowdIndex")] for row in rows]
    return floats(values, 1, "crowdIndex", names, problems, meaning)[:, 0]


def person_areas(boxes_xywh: Floats) -> Floats:
    """Return the areas [A] that CrowdPose's evaluation takes, in pixels²."""
    return np.maximum(0, boxes_xywh[:, 2]) * np.maximum(0, boxes_xywh[:, 3]) * AREA_OF_BOX
