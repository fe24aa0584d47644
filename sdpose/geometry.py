"""From boxes to crops: the affine map between an image and the crop that the model sees.

The pixel convention of the whole package:

* Coordinates are (x, y) in pixels and the centre of a pixel has integer coordinates: the first
  pixel is centred on (0, 0) and an image mirrored left to right maps x to `width - 1 - x`.
* A crop of `output_size_wh` = (W, H) has the centre of its box at (W / 2, H / 2), half a pixel
  beyond the centre (W - 1) / 2 of its pixel grid, as in the official code (mmpose 0.29 without
  UDP). A mirrored crop is therefore shifted by one crop pixel against the crop of the mirrored
  image; `codec.flip_back(shift=True)` compensates for it in heatmap pixels.
* A heatmap has the crop's convention at a lower resolution: heatmap = crop * W_heatmap / W_crop.

The crop region of a box is given as its centre and size (width, height) in image pixels. The size
is mmpose's `scale` times 200 and always has the aspect ratio of the crop.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray


def box_to_center_size(
    boxes_xywh: ArrayLike, aspect_ratio: float, padding: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the crop region of each box: its centre, and its size at the crop's aspect ratio.

    Args:
        boxes_xywh: [N, 4] left, top, width, height in image pixels.
        aspect_ratio: width / height of the crop.
        padding: the region is the enlarged box times this factor (1.25 in the official code).
    Returns:
        centers_N2 and sizes_N2, float32, in image pixels.
    Source:
        mmpose 0.29 TopDownGetBboxCenterScale, with its roundings to float32.

    >>> center, size = box_to_center_size([[10, 20, 30, 80]], aspect_ratio=0.75, padding=1.25)
    >>> center.tolist(), size.tolist()
    ([[25.0, 60.0]], [[75.0, 100.0]])
    """
    boxes_N4 = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    extent_N2 = boxes_N4[:, 2:]
    centers_N2 = (boxes_N4[:, :2] + extent_N2 * 0.5).astype(np.float32)
    return centers_N2, _padded(_with_aspect_ratio(extent_N2, aspect_ratio), padding)


def _with_aspect_ratio(extent_N2: NDArray, aspect_ratio: float) -> NDArray:
    """The smallest region of the aspect ratio that holds the extent (width, height)."""
    width_N, height_N = extent_N2[:, 0], extent_N2[:, 1]
    return np.stack(
        [
            np.maximum(width_N, height_N * aspect_ratio),
            np.maximum(height_N, width_N / aspect_ratio),
        ],
        axis=1,
    )


def _padded(extent_N2: NDArray, padding: float) -> NDArray[np.float32]:
    scale_N2 = extent_N2.astype(np.float32) / np.float32(200) * np.float32(padding)
    return scale_N2 * np.float32(200)


def extent_to_size(
    extent_wh: ArrayLike, aspect_ratio: float, padding: float
) -> NDArray[np.float32]:
    """Compute the size [2] of the crop region for one extent, as `box_to_center_size` does."""
    extent_12 = np.asarray(extent_wh, dtype=np.float64).reshape(1, 2)
    return _padded(_with_aspect_ratio(extent_12, aspect_ratio), padding)[0]


def crop_affine(
    center: ArrayLike,
    size: ArrayLike,
    rotation_deg: float,
    output_size_wh: tuple[int, int],
    flip: bool = False,
) -> NDArray[np.float64]:
    """Compute the [2, 3] matrix from image pixels to crop pixels.

    The region's centre maps to (W / 2, H / 2), and the factor W / size[0] scales both axes.

    Args:
        center: [2] centre of the region in pixels of the image as stored, not mirrored.
        size: [2] width and height of the region in image pixels; only the width is used.
        rotation_deg: degrees; the direction that is up in the crop points `rotation_deg` clockwise
            of up in the image, as seen on a screen.
        output_size_wh: width and height of the crop.
        flip: mirror the region left to right before it is rotated. This equals mirroring the image
            and the centre first (x to width - 1 - x): the image's width cancels.
    Source:
        mmpose 0.29 get_affine_transform: OpenCV solves for the matrix from three float32 points
        (the centre, the point half a width above it, and a third at a right angle to them). An
        exact matrix differs by 1e-6, and one crop in ten by a grey level in a few pixels.
    """
    width, height = output_size_wh
    angle = math.radians(rotation_deg)
    center_2 = np.asarray(center, dtype=np.float32)
    up_2 = np.array([math.sin(angle), -math.cos(angle)]) * (float(np.asarray(size)[0]) / 2)
    top_2 = (center_2 + up_2).astype(np.float32)
    dx, dy = center_2 - top_2
    source_32 = np.stack([center_2, top_2, top_2 + np.array([-dy, dx], dtype=np.float32)])
    top = (height - width) / 2
    target_32 = np.array([[width / 2, height / 2], [width / 2, top], [0, top]], dtype=np.float32)
    matrix = cv2.getAffineTransform(source_32, target_32)
    if flip:  # x to 2 * center - x first
        matrix[:, 2] += 2 * float(center_2[0]) * matrix[:, 0]
        matrix[:, 0] *= -1
    return matrix


def invert_affine(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse, [2, 3], of an invertible [2, 3] matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def apply_affine(points: ArrayLike, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform points [..., 2] by a [2, 3] matrix.

    >>> apply_affine([[1, 2]], np.array([[2.0, 0, 10], [0, 2, 20]])).tolist()
    [[12.0, 24.0]]
    """
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
