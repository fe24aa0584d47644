"""How a figure is painted, and which of its joints can be seen in the finished picture.

A picture (BGR) goes with an owner map: for every pixel the number of the body part that is on top
there. A pixel's centre has integer coordinates.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from sdpose.config.schema import COCO
from sdpose.tools.synthetic.figure import PART_INDEX, Array, Color, Figure, shade

# The parts that show a joint: where another one lies on top of it, the joint is occluded.
_SHOWN_BY = {
    "shoulder": ("upper_arm",),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh",),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
}

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
    height: float,
    first_owner: int,
) -> None:
    """Paints a person whose pelvis is at `origin_2`, `height` pixels tall when upright.

    The pixels of part p get the number first_owner + p in owner_HW.
    """
    outline = 0.5 if height < 60 else 0.9
    for part in figure.parts:
        owner = first_owner + PART_INDEX[part.name]
        centers = origin_2 + height * part.centers[:, :2]
        radii = height * part.radii
        border = hull_polygon(centers, radii + outline)
        fill(image_HW3, border, shade(part.color, 0.5))
        fill(image_HW3, hull_polygon(centers, radii), part.color)
        own(owner_HW, border, owner)
        for detail_centers, detail_radii, color in part.details:
            polygon = hull_polygon(origin_2 + height * detail_centers[:, :2], height * detail_radii)
            fill(image_HW3, polygon, color)
            own(owner_HW, polygon, owner)


def visibility(
    figure: Figure,
    joints_K2: Array,
    owner_HW: npt.NDArray[np.int16],
    seen: npt.NDArray[np.bool_],
    first_owner: int,
) -> npt.NDArray[np.int64]:
    """COCO's v of the 17 joints at joints_K2 (pixels) in a finished picture, in which
    the owners with seen[owner] have pixels.

    2: visible; 1: hidden by another body part, person or object, but placed by what is seen of its
    limb; 0: outside the image, or nothing to place it by, or a face joint on the far side of the
    head (COCO's annotators leave these out).
    """
    height, width = owner_HW.shape
    visible = np.zeros(len(COCO.keypoints), dtype=np.int64)
    for k, name in enumerate(COCO.keypoints):
        x, y = round(float(joints_K2[k, 0])), round(float(joints_K2[k, 1]))
        if figure.face_hidden[k] or not (0 <= x < width and 0 <= y < height):
            continue
        limb, trunk = _parts_of(name)
        limb_owners = {first_owner + PART_INDEX[part] for part in limb}
        trunk_owners = {first_owner + PART_INDEX[part] for part in trunk}
        shown_by = limb_owners if figure.far[k] else limb_owners | trunk_owners
        around = owner_HW[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if shown_by.intersection(around.ravel().tolist()):
            visible[k] = 2
        elif any(seen[owner] for owner in limb_owners | trunk_owners):
            visible[k] = 1
    return visible


def _parts_of(joint: str) -> tuple[list[str], list[str]]:
    """The limb and the trunk parts that a joint lies in."""
    side, _, kind = joint.partition("_")
    if kind not in _SHOWN_BY:
        return ["head"], []
    trunk = {"shoulder": ["torso"], "hip": ["pelvis", "torso"]}.get(kind, [])
    return [f"{side}_{part}" for part in _SHOWN_BY[kind]], trunk
