"""Head sizes, by which PCKh measures distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdpose.data.tables import Floats, Problems, floats

# MPII's evaluation: head size = 0.6 x diagonal of the head box (SC_BIAS of its evalMPII.m).
OF_DIAGONAL = 0.6
# Keys of annotations: a size in pixels as mmpose has it, boxes as of MPII-TRB and PoseTrack.
HEAD_KEYS = {
    "head_size": "pixels",
    "headbox": "[x1, y1, x2, y2]",
    "bbox_head": "[x, y, width, height]",
}


def head_sizes(
    rows: Sequence[dict[str, Any]], names: Sequence[str], problems: Problems
) -> Floats | None:
    """Read the head sizes of annotations.

    Args:
        rows: the annotations.
        names: of the annotations, for messages.
        problems: gets what cannot be read.
    Returns:
        [N] pixels, 0 where an annotation has none or an empty box; None if no annotation has one.
    """
    key = next((key for key in HEAD_KEYS if any(key in row for row in rows)), None)
    if key is None:
        return None
    length = 1 if key == "head_size" else 4
    values = [row.get(key) for row in rows]
    if length == 1:
        values = [[0.0] if value is None else [value] for value in values]
    else:
        values = [value or [0.0] * 4 for value in values]
    array = floats(values, length, key, names, problems, HEAD_KEYS[key])
    if key == "head_size":
        return np.maximum(0.0, array[:, 0])
    sides = array[:, 2:] - array[:, :2] if key == "headbox" else array[:, 2:]
    return OF_DIAGONAL * np.hypot(*np.maximum(0.0, sides).T)
