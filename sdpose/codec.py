"""Encode joints as heatmaps, and decode heatmaps to joints.

Shapes: N samples, K joints, H x W heatmap pixels. Heatmap coordinates are crop coordinates times
heatmap size / image size (see geometry.py for the pixel convention).

`encode` runs in the loader on numpy arrays; `decode` and `flip_back` run on torch tensors, on the
device of the model's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The product of two numbers above this is a normal float32 number. Without the cutoff a ring of
# subnormals surrounds every Gaussian; arithmetic on them is many times slower on most processors.
_NEGLIGIBLE = 2e-19

# Smoothed heatmaps are clamped to this minimum before the logarithm (mmpose's value).
_SMALLEST = 1e-10


def encode(
    joints_xy_NK2: NDArray,
    visible_NK: NDArray,
    image_size_wh: tuple[int, int],
    heatmap_size_wh: tuple[int, int],
    sigma: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw unbiased Gaussian targets: centred on the exact position, over the whole map.

    Args:
        joints_xy_NK2: crop pixels.
        visible_NK: 1 for annotated joints, 0 for others.
        image_size_wh: width and height of the crop in pixels.
        heatmap_size_wh: width and height of the heatmaps in pixels.
        sigma: standard deviation in heatmap pixels.
    Returns:
        targets_NKHW in 0..1 and weights_NK, 0 or 1. A joint that is not visible, or whose Gaussian
        does not reach the map within 3 sigma, has an empty map and weight 0.
    Source:
        Zhang et al., Distribution-Aware Coordinate Representation (CVPR 2020), section 3.2; the
        3 sigma rule: mmpose 0.29 TopDownGenerateTarget.
    """
    along_x_NKW, along_y_NKH, weights_NK = target_factors(
        joints_xy_NK2, visible_NK, image_size_wh, heatmap_size_wh, sigma
    )
    return along_y_NKH[..., :, None] * along_x_NKW[..., None, :], weights_NK


def target_factors(
    joints_xy_NK2: NDArray,
    visible_NK: NDArray,
    image_size_wh: tuple[int, int],
    heatmap_size_wh: tuple[int, int],
    sigma: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Compute the targets of `encode` (same arguments) as separable factors, 1/27 of the bytes.

    Returns:
        along_x_NKW, along_y_NKH and weights_NK, all float32;
        targets_NKHW = along_y_NKH[..., :, None] * along_x_NKW[..., None, :].
    """
    size_wh = np.asarray(heatmap_size_wh)
    means_NK2 = joints_xy_NK2 * (size_wh / np.asarray(image_size_wh, dtype=np.float64))
    reach = 3 * sigma
    near_NK = ((means_NK2 - reach < size_wh) & (means_NK2 + reach + 1 >= 0)).all(axis=-1)
    weights_NK = (near_NK & (visible_NK > 0)).astype(np.float32)
    along_x_NKW = _gaussian(means_NK2[..., 0], heatmap_size_wh[0], sigma)
    along_y_NKH = _gaussian(means_NK2[..., 1], heatmap_size_wh[1], sigma) * weights_NK[..., None]
    return along_x_NKW, along_y_NKH, weights_NK


def _gaussian(means_NK: NDArray, length: int, sigma: float) -> NDArray[np.float32]:
    """One axis of the separable Gaussian: [N, K, length]."""
    values = np.exp((np.arange(length) - means_NK[..., None]) ** 2 * (-0.5 / sigma**2))
    values[values < _NEGLIGIBLE] = 0
    return values.astype(np.float32)


@torch.no_grad()
def decode(
    heatmaps_NKHW: Tensor,
    centers_N2: Tensor | NDArray,
    sizes_N2: Tensor | NDArray,
    *,
    post_process: Literal["unbiased", "default"] | None,
    kernel: int,
) -> Tensor:
    """Locate the joint of each heatmap, in image pixels.

    Args:
        heatmaps_NKHW: one peak per joint.
        centers_N2, sizes_N2: the crop regions in image pixels (geometry.box_to_center_size).
        post_process: how the highest pixel is refined: "unbiased" by DARK; "default" by a quarter
            pixel towards the higher neighbour; None not at all.
        kernel: odd width in heatmap pixels of the Gaussian that smooths the map for "unbiased".
    Returns:
        keypoints_NK3 float32, on the device of the heatmaps: x, y and the score, the highest value
        of the unsmoothed map. Of equal pixels the first in C order counts; without a positive
        value the joint lies at heatmap position (-1, -1).
    Source:
        mmpose 0.29 keypoints_from_heatmaps with use_udp=False. Deviation: where mmpose gets no
        finite step (the smoothed map has no positive value), the highest pixel is not refined.
    """
    height, width = heatmaps_NKHW.shape[-2:]
    scores_NK, peak_NK = heatmaps_NKHW.flatten(2).max(dim=-1)
    peaks_NK2 = torch.stack([peak_NK % width, peak_NK // width], dim=-1)
    if post_process == "unbiased":
        step_NK2 = _dark_step(heatmaps_NKHW, scores_NK, peaks_NK2, kernel)
    elif post_process == "default":
        step_NK2 = _quarter_step(heatmaps_NKHW, peaks_NK2)
    else:
        step_NK2 = torch.zeros_like(peaks_NK2, dtype=torch.float64)
    positive_NK1 = (scores_NK > 0)[..., None]
    coordinates_NK2 = torch.where(positive_NK1, peaks_NK2 + step_NK2, -1.0)

    device = heatmaps_NKHW.device
    centers_N12 = torch.as_tensor(centers_N2, dtype=torch.float64, device=device)[:, None]
    sizes_N12 = torch.as_tensor(sizes_N2, dtype=torch.float64, device=device)[:, None]
    map_size_2 = torch.tensor([width, height], dtype=torch.float64, device=device)
    image_NK2 = (coordinates_NK2 / map_size_2 - 0.5) * sizes_N12 + centers_N12
    return torch.cat([image_NK2.float(), scores_NK[..., None].float()], dim=-1)


def _dark_step(heatmaps_NKHW: Tensor, scores_NK: Tensor, peaks_NK2: Tensor, kernel: int) -> Tensor:
    """The Newton step -H^-1 g from the highest pixel to the maximum of the log-heatmap.

    DARK (Zhang et al., CVPR 2020), equations 8 to 12, with derivatives by central differences.
    Peaks within two pixels of the border are not refined.
    """
    around_NK55 = _smooth_around(heatmaps_NKHW, peaks_NK2, kernel)
    inside_NK = _inside(peaks_NK2, heatmaps_NKHW.shape, margin=2)

    # mmpose scales the smoothed map back to its original maximum. This adds a constant to the
    # logarithm and cancels, unless a value is clamped: only then is the smoothed maximum of the
    # whole map needed. (Smoothing cannot raise the maximum, so scaling never lowers a value.)
    cut_NK = inside_NK & (around_NK55 < _SMALLEST).flatten(2).any(dim=-1)
    scale_M = scores_NK[cut_NK] / _smooth(heatmaps_NKHW[cut_NK], kernel).amax(dim=(-2, -1))
    around_NK55[cut_NK] *= scale_M[:, None, None]

    log_NK55 = around_NK55.clamp(min=_SMALLEST).log()

    def at(x: int, y: int) -> Tensor:
        return log_NK55[..., 2 + y, 2 + x]

    dx = 0.5 * (at(1, 0) - at(-1, 0))
    dy = 0.5 * (at(0, 1) - at(0, -1))
    dxx = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
    dyy = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    dxy = 0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1))
    step_NK2 = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1)
    step_NK2 = step_NK2 / (dxx * dyy - dxy * dxy)[..., None]
    usable_NK = inside_NK & step_NK2.isfinite().all(dim=-1)
    return torch.where(usable_NK[..., None], step_NK2, 0.0)


def _quarter_step(heatmaps_NKHW: Tensor, peaks_NK2: Tensor) -> Tensor:
    around_NK33 = _window(heatmaps_NKHW, peaks_NK2, radius=1)
    slope_NK2 = torch.stack(
        [
            around_NK33[..., 1, 2] - around_NK33[..., 1, 0],
            around_NK33[..., 2, 1] - around_NK33[..., 0, 1],
        ],
        dim=-1,
    )
    inside_NK = _inside(peaks_NK2, heatmaps_NKHW.shape, margin=1)
    return torch.where(inside_NK[..., None], 0.25 * slope_NK2.double().sign(), 0.0)


def _inside(peaks_NK2: Tensor, shape: torch.Size, margin: int) -> Tensor:
    """Whether 1 < x < width - margin, and likewise y."""
    x_NK, y_NK = peaks_NK2.unbind(-1)
    return (x_NK > 1) & (x_NK < shape[-1] - margin) & (y_NK > 1) & (y_NK < shape[-2] - margin)


def _window(maps_NKHW: Tensor, peaks_NK2: Tensor, radius: int) -> Tensor:
    """The pixels around each peak, 0 beyond the map: [N, K, 2 * radius + 1, 2 * radius + 1]."""
    height, width = maps_NKHW.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=maps_NKHW.device)
    x_NKR = peaks_NK2[..., :1] + offsets
    y_NKR = peaks_NK2[..., 1:] + offsets
    rows_NKR1 = (y_NKR.clamp(0, height - 1) * width)[..., :, None]
    index_NKRR = rows_NKR1 + x_NKR.clamp(0, width - 1)[..., None, :]
    values_NKRR = maps_NKHW.flatten(2).gather(-1, index_NKRR.flatten(2)).view(index_NKRR.shape)
    x_on_map_NKR = (x_NKR >= 0) & (x_NKR < width)
    y_on_map_NKR = (y_NKR >= 0) & (y_NKR < height)
    on_map_NKRR = y_on_map_NKR[..., :, None] & x_on_map_NKR[..., None, :]
    return values_NKRR.where(on_map_NKRR, 0.0)


# Smoothing multiplies by a banded matrix from both sides: this keeps float64 precision on a GPU,
# where a convolution would round its inputs to TF32.


def _smooth_around(heatmaps_NKHW: Tensor, peaks_NK2: Tensor, kernel: int) -> Tensor:
    """The 5 x 5 pixels of the smoothed maps around each peak: [N, K, 5, 5] float64."""
    window_NKRR = _window(heatmaps_NKHW, peaks_NK2, radius=2 + kernel // 2).double()
    band_5R = _gaussian_band(5, kernel // 2, 5 + kernel - 1, kernel).to(window_NKRR.device)
    return band_5R @ window_NKRR @ band_5R.T


def _smooth(maps_MHW: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with zero padding: [M, H, W] float64."""
    height, width = maps_MHW.shape[-2:]
    rows_HH = _gaussian_band(height, 0, height, kernel).to(maps_MHW.device)
    columns_WW = _gaussian_band(width, 0, width, kernel).to(maps_MHW.device)
    return rows_HH @ maps_MHW.double() @ columns_WW


def _gaussian_band(rows: int, first: int, columns: int, kernel: int) -> Tensor:
    """Float64 matrix [rows, columns] whose row i holds the kernel, centred on `first` + i.

    The kernel is OpenCV's, with standard deviation 0.3 * ((kernel - 1) / 2 - 1) + 0.8, except for
    small widths, which OpenCV takes from a table.
    """
    weights = torch.from_numpy(cv2.getGaussianKernel(kernel, 0)[:, 0])
    centers = torch.arange(rows)[:, None] + first
    tap = torch.arange(columns)[None, :] - centers + kernel // 2
    return weights[tap.clamp(0, kernel - 1)].where((tap >= 0) & (tap < kernel), 0.0)


def flip_back(heatmaps_NKHW: Tensor, flip_index: Sequence[int], shift: bool) -> Tensor:
    """Undo the mirroring in the heatmaps of mirrored crops, and swap left and right joints.

    `flip_index` [K] has the joint that each one becomes in a mirrored image. `shift` also moves the
    maps right by one pixel (the first column is kept), which aligns them with those of the
    unmirrored crops (mmpose's `shift_heatmap`; see geometry.py).
    """
    width = heatmaps_NKHW.shape[-1]
    columns = torch.arange(width - 1, -1, -1, device=heatmaps_NKHW.device)
    if shift:
        columns = torch.cat([columns[:1], columns[:-1]])
    joints = torch.tensor(flip_index, device=heatmaps_NKHW.device)
    return heatmaps_NKHW.index_select(1, joints).index_select(3, columns)
