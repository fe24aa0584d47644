"""OpenCV's bilinear warp for a whole batch on any device, bit for bit.

cv2.warpAffine (4.x) computes in integers. A position in the source is the rounded sum of a row term
and a column term in 1/1024 pixel, truncated to 1/32 pixel; the four pixels around it are weighted
by products of 32nds, and the sum is rounded (modules/imgproc/src/imgwarp.cpp, WarpAffineInvoker and
remapBilinear). This module repeats it in int32, so that training sees the same pixels whether the
CPU or the GPU warps.

N crops, H x W pixels of a crop. A region is the part of an image that a crop reads.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_POSITION_BITS = 10  # OpenCV's AB_BITS
_FRACTION_BITS = 5  # OpenCV's INTER_BITS
_STEPS = 1 << _FRACTION_BITS  # between two pixels
_HALF_STEP = 1 << (_POSITION_BITS - _FRACTION_BITS - 1)


def invert_affines(matrices_N23: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert matrices from image to crop pixels, with the roundings of cv2.warpAffine."""
    a, b, c = matrices_N23[:, 0].T
    d, e, f = matrices_N23[:, 1].T
    scale = 1 / (a * e - b * d)
    linear = np.stack([e * scale, -b * scale, -d * scale, a * scale])
    offset_x = -linear[0] * c - linear[1] * f
    offset_y = -linear[2] * c - linear[3] * f
    columns = [linear[0], linear[1], offset_x, linear[2], linear[3], offset_y]
    return np.stack(columns, axis=1).reshape(-1, 2, 3)


def source_regions(
    inverse_N23: NDArray[np.float64], size_wh: tuple[int, int], image_sizes_N2: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Compute the region that each crop reads of its image.

    Args:
        inverse_N23: from crop to image pixels (`invert_affines`).
        size_wh: width and height of the crops.
        image_sizes_N2: width and height of the images.
    Returns:
        [N, 4] left, top, width, height in image pixels; never empty.
    """
    corners = (torch.tensor([0, size_wh[0] - 1]), torch.tensor([0, size_wh[1] - 1]))
    positions = _positions(torch.from_numpy(inverse_N23), *corners)
    # The row and column terms are monotonic, so the extremes are at the corners.
    low, high = (
        torch.stack([f(p.flatten(1), dim=1) >> _FRACTION_BITS for p in positions], dim=1).numpy()
        for f in (torch.amin, torch.amax)
    )
    first = np.clip(low, 0, image_sizes_N2 - 1)
    last = np.clip(high + 1, first, image_sizes_N2 - 1)  # + 1: the pixel to interpolate with
    return np.concatenate([first, last - first + 1], axis=1)


def warp_regions(
    pixels_B: Tensor,
    offsets_N: Tensor,
    regions_N4: Tensor,
    inverse_N23: Tensor,
    size_wh: tuple[int, int],
) -> Tensor:
    """Warp regions to crops [N, 3, H, W] uint8, black outside of the images.

    All tensors are on one device; nothing synchronises with it.

    Args:
        pixels_B: uint8, the concatenated regions, each [height, width, RGB].
        offsets_N: the first byte of each region in `pixels_B`.
        regions_N4: left, top, width, height in image pixels (`source_regions`).
        inverse_N23: float64, from crop to image pixels (`invert_affines`).
        size_wh: width and height of the crops.
    """
    device = pixels_B.device
    columns, rows = (torch.arange(length, device=device) for length in size_wh)
    x_NHW, y_NHW = _positions(inverse_N23, columns, rows)
    left, top, width, height = (side[:, None, None] for side in regions_N4.int().unbind(1))
    x0, x1, weight_x0, weight_x1 = _neighbours(x_NHW, left, width)
    y0, y1, weight_y0, weight_y1 = _neighbours(y_NHW, top, height)
    taps = [
        ((y * width + x) * 3 + offsets_N[:, None, None], weight_y * weight_x)
        for y, weight_y in ((y0, weight_y0), (y1, weight_y1))
        for x, weight_x in ((x0, weight_x0), (x1, weight_x1))
    ]
    crops_N3HW = torch.empty(
        (len(offsets_N), 3, *x_NHW.shape[1:]), dtype=torch.uint8, device=device
    )
    half = 1 << (2 * _FRACTION_BITS - 1)
    for channel in range(3):
        mixed = sum(pixels_B[index + channel] * weight for index, weight in taps)
        crops_N3HW[:, channel] = (mixed + half) >> (2 * _FRACTION_BITS)
    return crops_N3HW


def _positions(inverse_N23: Tensor, columns_W: Tensor, rows_H: Tensor) -> tuple[Tensor, Tensor]:
    """Position in the image of each crop pixel: x and y, [N, H, W] int32, in 1/32 pixel."""

    def rounded(values: Tensor) -> Tensor:
        return (values * (1 << _POSITION_BITS)).round().int()

    step_N2, row_step_N2, start_N2 = inverse_N23.unbind(2)
    along_columns_N2W = rounded(step_N2[:, :, None] * columns_W)
    along_rows_N2H = rounded(row_step_N2[:, :, None] * rows_H + start_N2[:, :, None]) + _HALF_STEP
    shift = _POSITION_BITS - _FRACTION_BITS
    position_N2HW = (along_rows_N2H[:, :, :, None] + along_columns_N2W[:, :, None, :]) >> shift
    x_NHW, y_NHW = position_N2HW.unbind(1)
    return x_NHW, y_NHW


def _neighbours(
    position_NHW: Tensor, first: Tensor, length: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis, the two pixels around a position, counted from the region's first one, and
    their weights in 32nds, 0 outside of the region."""
    before = (position_NHW >> _FRACTION_BITS) - first
    after = before + 1
    fraction = position_NHW & (_STEPS - 1)
    weight_before = torch.where((before >= 0) & (before < length), _STEPS - fraction, 0)
    weight_after = torch.where((after >= 0) & (after < length), fraction, 0)
    last = length - 1
    return (
        before.clamp(min=0).minimum(last),
        after.clamp(min=0).minimum(last),
        weight_before,
        weight_after,
    )
