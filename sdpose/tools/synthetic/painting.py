"""How a figure is painted, and which of its joints can be seen in the finished picture.

A picture (BGR) goes with an owner map: for every pixel the number of the body part that is on top
there. A pixel's centre has integer coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from sdpose.tools.synthetic.solids import Array, Color, Figure, shade

_CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 17)[:-1]])
SUBPIXEL_BITS = 4


def hull_polygon(centers_B2: Array, radii_B: Array) -> npt.NDArray[np.int32]:
    """Convex outline of discs, in 1/16 pixel; a pixel's centre has integer coordinates."""
    points = (centers_B2[:, None, :] + radii_B[:, None, None] * _CIRCLE).reshape(-1, 2)
    fixed = np.rint(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    return cv2.convexHull(fixed)


def fill(image_HW3: npt.NDArray[np.uint8], polygon: npt.NDArray[np.int32], color: Color) -> None:
    cv2.fillConvexPoly(image_HW3, polygon, color, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)


def own(owner_HW: npt.NDArray[np.int16], polygon: npt.NDArray[np.int32], number: int) -> None:
    """Notes whom the pixels of a convex polygon belong to."""
    cv2.fillConvexPoly(owner_HW, polygon, number, lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)


def paint_figure(
    image_HW3: npt.NDArray[np.uint8],
    owner_HW: npt.NDArray[np.int16],
    figure: Figure,
    origin_2: Array,
    size: float,
    first_owner: int,
) -> None:
    """Paint a figure whose origin is at `origin_2`, `size` pixels long.

    The pixels of the figure's p-th part get the number first_owner + p in owner_HW.
    """
    outline = 0.5 if size < 60 else 0.9
    for owner, part in enumerate(figure.parts, start=first_owner):
        centers = origin_2 + size * part.centers[:, :2]
        radii = size * part.radii
        border = hull_polygon(centers, radii + outline)
        fill(image_HW3, border, shade(part.color, 0.5))
        fill(image_HW3, hull_polygon(centers, radii), part.color)
        own(owner_HW, border, owner)
        for detail_centers, detail_radii, color in part.details:
            polygon = hull_polygon(origin_2 + size * detail_centers[:, :2], size * detail_radii)
            fill(image_HW3, polygon, color)
            own(owner_HW, polygon, owner)


def visibility(
    figure: Figure,
    names: Sequence[str],
    joints_K2: Array,
    owner_HW: npt.NDArray[np.int16],
    seen: npt.NDArray[np.bool_],
    first_owner: int,
) -> npt.NDArray[np.int64]:
    """Return COCO's v of the joints `names` at joints_K2 (pixels) in a finished picture, in which
    the owners with seen[owner] have pixels.

    2: visible; 1: hidden by another part, figure or object, but placed by what is seen around it;
    0: outside the image, or nothing to place it by, or a joint that is never annotated from this
    side (COCO's annotators leave out a face's far side).
    """
    height, width = owner_HW.shape
    owner_of = {part.name: first_owner + p for p, part in enumerate(figure.parts)}
    visible = np.zeros(len(names), dtype=np.int64)
    for k, name in enumerate(names):
        joint = figure.joints[name]
        x, y = round(float(joints_K2[k, 0])), round(float(joints_K2[k, 1]))
        if joint.hidden or not (0 <= x < width and 0 <= y < height):
            continue
        shown_by = {owner_of[part] for part in joint.shown_by}
        around = owner_HW[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if shown_by.intersection(around.ravel().tolist()):
            visible[k] = 2
        elif any(seen[owner_of[part]] for part in joint.placed_by):
            visible[k] = 1
    return visible
