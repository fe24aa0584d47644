"""Random augmentation of a training sample: position, size, rotation and mirroring of its crop.

The distributions, and the order of the draws, are those of mmpose 0.29's top-down training
pipeline as the official configurations use it: random shift of the box, mirroring, half body,
random scale and rotation. Given the same draws it returns the same crop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdpose.geometry import apply_affine, extent_to_size

# The crop of half a body is the extent of its joints times this factor.
HALF_BODY_PADDING = 1.5
# The upper half is kept if a standard normal draw is below this, in 69 % of the cases.
UPPER_BODY_BELOW = 0.5


class RandomSource(Protocol):
    """A numpy Generator (or the RandomState that made the reference numbers)."""

    def random(self) -> float: ...
    def uniform(self, low: float, high: float, size: int) -> Any: ...
    def standard_normal(self) -> float: ...


@dataclass(frozen=True)
class Augmentation:
    """A crop region: arguments of `geometry.crop_affine`."""

    center: NDArray  # [2], pixels of the image as stored, not mirrored
    size: NDArray  # [2], width and height in image pixels
    rotation_deg: float = 0.0
    flip: bool = False


def draw_augmentation(
    rng: RandomSource,
    center: NDArray,
    size: NDArray,
    joints_K2: NDArray,
    visible_K: NDArray,
    *,
    is_upper_K: NDArray[np.bool_],
    aspect_ratio: float,
    shift_factor: float,
    shift_prob: float,
    flip_prob: float,
    num_joints_half_body: int,
    prob_half_body: float,
    scale_factor: float,
    rot_factor: float,
    rot_prob: float,
) -> Augmentation:
    """Draw the crop of one person.

    Args:
        center, size: [2] each, the crop region of the person's box in image pixels.
        joints_K2: image pixels.
        visible_K: 1 for annotated joints, 0 for others.
        is_upper_K: the joints of the upper body. All or none: there are no halves.
        aspect_ratio: width / height of the crop.
        shift_factor: the centre moves uniformly by up to this share of the size ...
        shift_prob: ... with this probability.
        flip_prob: probability that the crop is mirrored.
        num_joints_half_body: if more joints than this are visible, the region is replaced by that
            of the upper or the lower body ...
        prob_half_body: ... with this probability.
        scale_factor: the size is multiplied by 1 + N(0, scale_factor), clipped to
            1 - scale_factor .. 1 + scale_factor.
        rot_factor: degrees; the crop is rotated by N(0, rot_factor), clipped to twice that ...
        rot_prob: ... with this probability.
    """
    crop = Augmentation(center, size)
    if rng.random() < shift_prob:
        crop = replace(crop, center=center + rng.uniform(-1, 1, 2) * shift_factor * size)
    flip = rng.random() <= flip_prob
    halves = is_upper_K.any() and not is_upper_K.all()
    if halves and visible_K.sum() > num_joints_half_body and rng.random() < prob_half_body:
        keep_upper = rng.standard_normal() < UPPER_BODY_BELOW
        crop = half_body(joints_K2, visible_K, is_upper_K, keep_upper, aspect_ratio) or crop
    scale = 1 + np.clip(rng.standard_normal() * scale_factor, -scale_factor, scale_factor)
    rotation = np.clip(rng.standard_normal() * rot_factor, -2 * rot_factor, 2 * rot_factor)
    if rng.random() > rot_prob:
        rotation = 0.0
    return Augmentation(crop.center, crop.size * scale, float(rotation), flip)


def half_body(
    joints_K2: NDArray,
    visible_K: NDArray,
    is_upper_K: NDArray[np.bool_],
    keep_upper: bool,
    aspect_ratio: float,
) -> Augmentation | None:
    """Compute the region of the visible joints of one half of the body.

    Args:
        joints_K2: image pixels.
        visible_K: 1 for annotated joints, 0 for others.
        is_upper_K: the joints of the upper body.
        keep_upper: the preferred half. It is used if more than two of its joints are visible, else
            the other half under the same condition, else the upper half.
        aspect_ratio: width / height of the crop.
    Returns:
        The region, not rotated or mirrored; None if fewer than two joints remain or all coincide
        (mmpose would make an empty crop).
    """
    visible_K = visible_K > 0
    upper_K, lower_K = visible_K & is_upper_K, visible_K & ~is_upper_K
    take_upper = (keep_upper and upper_K.sum() > 2) or lower_K.sum() <= 2
    kept_J2 = joints_K2[upper_K if take_upper else lower_K]
    if len(kept_J2) < 2:
        return None
    extent = kept_J2.max(axis=0) - kept_J2.min(axis=0)
    if not extent.any():
        return None
    size = extent_to_size(extent, aspect_ratio, HALF_BODY_PADDING)
    return Augmentation(kept_J2.mean(axis=0), size)


def joints_in_crop(
    joints_K2: NDArray, visible_K: NDArray, matrix: NDArray, flip_index_K: NDArray | None
) -> tuple[NDArray, NDArray]:
    """Transform joints from image to crop pixels.

    Args:
        joints_K2, visible_K: of the image as stored.
        matrix: `geometry.crop_affine`.
        flip_index_K: of a mirrored crop, the joint that each one becomes in it; else None.
    Returns:
        joints_K2 in crop pixels, and visible_K.
    """
    if flip_index_K is not None:
        joints_K2, visible_K = joints_K2[flip_index_K], visible_K[flip_index_K]
    return apply_affine(joints_K2, matrix), visible_K
