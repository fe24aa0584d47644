"""Targets, decoding and flip-back against the official code's numbers and a plain decoder."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdpose.codec import decode, encode, flip_back
from sdpose.config.schema import COCO

IMAGE_WH = (192, 256)
HEATMAP_WH = (48, 64)
PIXELS = 1e-3
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def reference(reference_dir):
    return np.load(reference_dir / "data.npz")


def encode_crops(joints_NK2, visible_NK):
    return encode(np.asarray(joints_NK2), np.asarray(visible_NK), IMAGE_WH, HEATMAP_WH, 2.0)


def test_targets_are_the_official_ones(reference):
    targets, weights = encode_crops(
        reference["joints_r0"][..., :2], reference["person_visible"][..., 0]
    )
    np.testing.assert_array_equal(weights, reference["target_weight_r0"][..., 0])
    persons = reference["crop_person_index"]
    np.testing.assert_allclose(targets[persons], reference["target_r0"], atol=1e-6)
    sums = targets.sum(axis=(-2, -1), dtype=np.float64)
    np.testing.assert_allclose(sums, reference["target_sum_r0"], atol=1e-5)
    np.testing.assert_allclose(targets.max((-2, -1)), reference["target_max_r0"], atol=1e-6)


def test_joints_beyond_the_border_drop_by_the_official_rule(reference):
    targets, weights = encode_crops(
        reference["edge_joints"][None, :, :2], reference["edge_visible"][None, :, 0]
    )
    np.testing.assert_array_equal(weights[0], reference["edge_target_weight"][:, 0])
    sums = targets.sum(axis=(-2, -1), dtype=np.float64)
    np.testing.assert_allclose(sums[0], reference["edge_target_sum"], atol=1e-5)
    np.testing.assert_allclose(targets[0].max((-2, -1)), reference["edge_target_max"], atol=1e-6)


def test_targets_hold_no_subnormal_numbers():
    targets, _ = encode_crops([[[3.3, 250.1], [100.0, 20.0]]], [[1, 1]])
    assert not ((targets > 0) & (targets < np.finfo(np.float32).tiny)).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("post_process", ["unbiased", "default", None])
def test_decoding_is_the_official_one(reference, post_process, device):
    """Border peaks, ties and maps without a positive value included."""
    keypoints = decode(
        torch.from_numpy(reference["dec_heatmaps"]).to(device),
        reference["dec_center"],
        reference["dec_scale"] * 200,
        post_process=post_process,
        kernel=11,
    ).cpu()
    np.testing.assert_allclose(
        keypoints[..., :2], reference[f"dec_{post_process}_img"], atol=PIXELS
    )
    np.testing.assert_array_equal(keypoints[..., 2:], reference["dec_maxvals"])


@pytest.mark.parametrize("device", DEVICES)
def test_flip_back_is_the_official_one(reference, device):
    heatmaps = torch.from_numpy(reference["dec_heatmaps"]).to(device)
    index = reference["blur_idx"]
    for shift, name in [(False, "flipback_noshift_samples"), (True, "flipback_shift_samples")]:
        samples = flip_back(heatmaps, COCO.flip_index, shift).cpu().flatten()[index]
        np.testing.assert_array_equal(samples, reference[name])

    average = (heatmaps + flip_back(heatmaps, COCO.flip_index, shift=True)) * 0.5
    np.testing.assert_allclose(
        average.cpu().flatten()[index], reference["flip_avg_samples"], atol=1e-7
    )
    center, size = reference["dec_center"], reference["dec_scale"] * 200
    keypoints = decode(average, center, size, post_process="unbiased", kernel=11).cpu()
    np.testing.assert_allclose(
        keypoints[..., :2], reference["flip_avg_dec_unbiased_img"], atol=PIXELS
    )


def test_flip_back_twice_is_the_identity():
    heatmaps = torch.rand(2, 17, 64, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        flip_back(flip_back(heatmaps, COCO.flip_index, False), COCO.flip_index, False), heatmaps
    )


def test_the_shift_aligns_the_maps_of_a_mirrored_crop():
    """Without it they are off by three quarters of a pixel, with it by a quarter."""
    joints_1K2 = np.random.default_rng(0).uniform(40, 150, (1, 17, 2))
    mirrored = joints_1K2[:, COCO.flip_index].copy()
    mirrored[..., 0] = IMAGE_WH[0] - 1 - mirrored[..., 0]
    targets = torch.from_numpy(encode_crops(mirrored, np.ones((1, 17)))[0])
    for shift, offset in [(False, -0.75), (True, 0.25)]:
        found = decode_heatmap_px(flip_back(targets, COCO.flip_index, shift))[0, :, 0]
        np.testing.assert_allclose(found, joints_1K2[0, :, 0] / 4 + offset, atol=0.01)


def decode_heatmap_px(heatmaps, kernel=11):
    """x and y in heatmap pixels (the region is the map itself)."""
    size = torch.tensor(heatmaps.shape[:-3:-1]).expand(len(heatmaps), 2)
    return decode(heatmaps, size / 2, size, post_process="unbiased", kernel=kernel)[..., :2]


# From 3.5 pixels inside the first and last pixel on. Nearer to the border the smoothing, which
# sees zeros beyond it, pulls the peak inwards (0.05 px at 3, 0.2 at 2), and within two pixels DARK
# takes no step at all. Both are the official behaviour.
@given(st.floats(3.5, 47 - 3.5), st.floats(3.5, 63 - 3.5))
def test_decode_undoes_encode(x, y):
    targets, weights = encode_crops([[[4 * x, 4 * y]]], [[1]])
    assert weights.all()
    found = decode_heatmap_px(torch.from_numpy(targets))[0, 0]
    np.testing.assert_allclose(found, [x, y], atol=0.05)


def plain_dark(heatmap, kernel):
    """DARK for one map as its authors and mmpose write it: smooth, scale, log, one Newton step."""
    if heatmap.max() <= 0:
        return [-1, -1]
    height, width = heatmap.shape
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return [x, y]
    padded = np.pad(heatmap.astype(np.float64), kernel // 2)
    smooth = cv2.GaussianBlur(padded, (kernel, kernel), 0)
    smooth = smooth[kernel // 2 : -(kernel // 2), kernel // 2 : -(kernel // 2)]
    log = np.log(np.maximum(smooth * (heatmap.max() / smooth.max()), 1e-10))
    gradient_y, gradient_x = np.gradient(log)
    hessian_yy, hessian_yx = np.gradient(gradient_y)
    _, hessian_xx = np.gradient(gradient_x)
    gradient = np.array([gradient_x[y, x], gradient_y[y, x]])
    hessian = np.array([[hessian_xx[y, x], hessian_yx[y, x]], [hessian_yx[y, x], hessian_yy[y, x]]])
    if abs(np.linalg.det(hessian)) == 0:
        return [x, y]
    return np.array([x, y]) - np.linalg.solve(hessian, gradient)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [3, 7, 11, 17])
def test_decoding_windows_equals_smoothing_whole_maps(kernel, device):
    """Heatmaps as models give them: a peak, noise around it, and mostly negative background, where
    the cut-off before the logarithm decides."""
    rng = np.random.default_rng(kernel)
    x, y = np.arange(24), np.arange(32)[:, None]
    maps = []
    for background in (0.0, -0.02, -0.2):
        for _ in range(40):
            cx, cy, amplitude = rng.uniform(0, 23), rng.uniform(0, 31), rng.uniform(0.1, 1)
            peak = amplitude * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(2, 12))
            maps.append(peak + background + 0.01 * rng.standard_normal((32, 24)))
    maps.append(np.eye(32, 24) * 1e-3)
    heatmaps = np.array(maps, dtype=np.float32)[:, None]
    found = decode_heatmap_px(torch.from_numpy(heatmaps).to(device), kernel).cpu()
    expected = np.array([plain_dark(heatmap, kernel) for heatmap in heatmaps[:, 0]])
    # Where the top is flat the step, and with it the rounding, is long.
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_scores_are_raw_maxima_and_a_map_without_a_step_stays_at_its_pixel():
    heatmaps = torch.zeros(1, 3, 64, 48)
    heatmaps[0, 1] = 0.5  # flat: the Hessian has no inverse
    heatmaps[0, 2] = -1.0
    heatmaps[0, 2, 30, 20] = 1e-3  # smoothed, nothing positive is left
    keypoints = decode(
        heatmaps,
        torch.tensor([[24.0, 32.0]]),
        torch.tensor([[48.0, 64.0]]),
        post_process="unbiased",
        kernel=11,
    )
    expected = torch.tensor([[-1, -1, 0], [0, 0, 0.5], [20, 30, 1e-3]])
    torch.testing.assert_close(keypoints[0], expected)
