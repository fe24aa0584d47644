"""Boxes and joints that are written in another convention than COCO's.

COCO: boxes are [x, y, width, height], joints x, y, both in pixels of the image. Nothing else in a
file says so, and a wrong convention trains without an error.

P = persons, K = joints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sdpose.data.coco import CocoAnnotations
from sdpose.data.tables import Floats

LOOKED_AT = 5000  # persons, evenly spread: enough to see a habit of a whole file
_MARGIN = 0.05  # of the box or image: joints and boxes may reach over a little
_FITS = 0.9  # of the persons, where the convention is right; COCO: 0.99

_LAYOUTS: dict[str, Callable[[Floats], Floats]] = {
    "[x1, y1, x2, y2]": lambda b: np.stack(
        [b[:, 0], b[:, 1], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]], axis=1
    ),
    "[x, y, height, width]": lambda b: b[:, [0, 1, 3, 2]],
    "[y, x, height, width]": lambda b: b[:, [1, 0, 3, 2]],
    "[centre x, centre y, width, height]": lambda b: np.concatenate(
        [b[:, :2] - b[:, 2:] / 2, b[:, 2:]], axis=1
    ),
}


def odd_coordinates(annotations: CocoAnnotations) -> list[str]:
    """What most boxes or joints of a file look like, if not like COCO's, and what to do."""
    labelled = (annotations.keypoints[:, :, 2] > 0).any(axis=1) & ~annotations.iscrowd
    rows_P = np.flatnonzero(labelled)
    if not len(rows_P):
        return []
    rows_P = rows_P[np.linspace(0, len(rows_P) - 1, min(LOOKED_AT, len(rows_P))).astype(int)]
    boxes_P4 = annotations.boxes_xywh[rows_P]
    sizes_P2 = annotations.image_sizes_wh[annotations.ann_image_index[rows_P]].astype(float)
    joints_PK3 = annotations.keypoints[rows_P]
    shown_PK = joints_PK3[:, :, 2] > 0
    unit = [
        what
        for what, values_PN in (
            ("boxes", boxes_P4),
            (
                "joints",
                np.where(shown_PK[:, :, None], joints_PK3[:, :, :2], 0).reshape(len(rows_P), -1),
            ),
        )
        if np.mean(np.abs(values_PN).max(axis=1) <= 1 + _MARGIN) > 1 - _FITS
    ]
    if unit:
        return [
            f"{' and '.join(unit)} look normalised to 0..1: multiply x and width by the image's "
            "width, y and height by its height"
        ]
    joints_PK2 = joints_PK3[:, :, :2]
    fit = _fit(boxes_P4, joints_PK2, shown_PK, sizes_P2)
    if fit >= _FITS:
        return []
    fits = {
        f"boxes look like {name}: write bbox as [x, y, width, height] in pixels": _fit(
            layout(boxes_P4), joints_PK2, shown_PK, sizes_P2
        )
        for name, layout in _LAYOUTS.items()
    }
    swapped = _fit(boxes_P4, joints_PK2[:, :, ::-1], shown_PK, sizes_P2)
    fits["joints look like y, x: write keypoints as x, y, v"] = swapped
    best = max(fits, key=lambda text: fits[text])
    if fits[best] >= _FITS:
        return [best]
    if fit < 0.5:
        return [
            f"{1 - fit:.0%} of the persons have joints outside of their box, or a box that leaves "
            "the image: bbox is [x, y, width, height], keypoints x, y, v, in pixels of the image"
        ]
    return []


def odd_boxes(boxes_N4: Floats, sizes_N2: Floats) -> str:
    """What detections look like, if not like [x, y, width, height]; there are no joints to tell."""
    if not len(boxes_N4):
        return ""
    if np.mean(boxes_N4.max(axis=1) <= 1 + _MARGIN) > 1 - _FITS:
        return "boxes look normalised to 0..1: multiply them by the image's width and height"
    outside = ~_inside_image(boxes_N4, sizes_N2)
    corners_N4 = _LAYOUTS["[x1, y1, x2, y2]"](boxes_N4)
    could_be = np.all(corners_N4[:, 2:] > 0, axis=1) & _inside_image(corners_N4, sizes_N2)
    if outside.mean() > 1 - _FITS and could_be.mean() >= _FITS:
        return "boxes look like [x1, y1, x2, y2]: write bbox as [x, y, width, height] in pixels"
    return ""


def _fit(boxes_P4: Floats, joints_PK2: Floats, shown_PK: Floats, sizes_P2: Floats) -> float:
    """The share of persons whose joints are in their box and in the image, and the box, too."""
    margin_P12 = (_MARGIN * boxes_P4[:, None, 2:]).clip(1)
    first_P12, extent_P12 = boxes_P4[:, None, :2], boxes_P4[:, None, 2:]
    inside_PK2 = joints_PK2 >= first_P12 - margin_P12
    inside_PK2 &= joints_PK2 <= first_P12 + extent_P12 + margin_P12
    inside_PK2 &= joints_PK2 <= (1 + _MARGIN) * sizes_P2[:, None, :]
    share_P = (inside_PK2.all(axis=2) & shown_PK).sum(axis=1) / shown_PK.sum(axis=1)
    return float(np.mean((share_P >= _FITS) & _inside_image(boxes_P4, sizes_P2)))


def _inside_image(boxes_N4: Floats, sizes_N2: Floats) -> NDArray[np.bool_]:
    first_N2, last_N2 = boxes_N4[:, :2], boxes_N4[:, :2] + boxes_N4[:, 2:]
    margin_N2 = _MARGIN * sizes_N2
    return np.all((first_N2 >= -margin_N2) & (last_N2 <= sizes_N2 + margin_N2), axis=1)
