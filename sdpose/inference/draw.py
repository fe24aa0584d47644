"""Skeletons on pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.config.schema import Skeleton
from sdpose.inference.estimator import Poses

Colour = tuple[int, int, int]

# RGB: the first of a pair (the left one) in orange, the other in blue, what has no pair in green.
# Colours that the colour-blind can tell apart (Okabe & Ito 2008).
LEFT, RIGHT, MIDDLE = (230, 159, 0), (86, 180, 233), (0, 158, 115)
OUTLINE = (20, 20, 20)
SHIFT = 4  # OpenCV draws at sixteenths of a pixel


def draw_poses(
    image_HW3: NDArray[np.uint8], poses: Poses, joint_thr: float = 0.2, pose_thr: float = 0.2
) -> NDArray[np.uint8]:
    """A copy of the RGB image with the skeletons of poses with a score above `pose_thr`; joints
    above `joint_thr`, limbs where both ends are. Lines grow with the person."""
    colours = _joint_colours(poses.skeleton)
    canvas = np.ascontiguousarray(image_HW3).copy()
    order = np.argsort(poses.scores, kind="stable")  # the surest on top
    for index in order[poses.scores[order] > pose_thr]:
        points, seen = poses.keypoints[index, :, :2], poses.keypoints[index, :, 2] > joint_thr
        width = int(np.clip(round(float(poses.boxes[index, 2:].max()) / 90), 1, 8))
        limbs = [(a, b) for a, b in poses.skeleton.limb_indices if seen[a] and seen[b]]
        for thickness in (width + 2, width):
            for a, b in limbs:
                colour = _limb_colour(colours[a], colours[b]) if thickness == width else OUTLINE
                cv2.line(
                    canvas, _at(points[a]), _at(points[b]), colour, thickness, cv2.LINE_AA, SHIFT
                )
        for joint in np.flatnonzero(seen).tolist():
            center, radius = _at(points[joint]), (width + 1) << SHIFT
            cv2.circle(canvas, center, radius + (1 << SHIFT), OUTLINE, -1, cv2.LINE_AA, SHIFT)
            cv2.circle(canvas, center, radius, colours[joint], -1, cv2.LINE_AA, SHIFT)
    return canvas


def _at(point: NDArray[np.float32]) -> tuple[int, int]:
    # Far outside of the picture a line need not be exact, but it must fit OpenCV's integers.
    x, y = np.clip(point, -10_000, 50_000)
    return round(float(x) * (1 << SHIFT)), round(float(y) * (1 << SHIFT))


def _joint_colours(skeleton: Skeleton) -> list[Colour]:
    by_side = {"left": LEFT, "right": RIGHT, "": MIDDLE}
    return [by_side[side] for side in skeleton.sides]


def _limb_colour(first: Colour, second: Colour) -> Colour:
    if first == second:
        return first
    return second if first == MIDDLE else first if second == MIDDLE else MIDDLE
