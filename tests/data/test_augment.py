"""Augmentation: the official pipeline's samples from the official draws, and its distributions."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from sdpose.codec import encode
from sdpose.config.schema import COCO
from sdpose.data.augment import draw_augmentation, half_body, joints_in_crop
from sdpose.data.images import normalize, read_image, warp_crop
from sdpose.geometry import crop_affine

CROP_WH, HEATMAP_WH = (192, 256), (48, 64)
PIXELS = 1e-3
IS_UPPER, FLIP_INDEX = np.array(COCO.is_upper), np.array(COCO.flip_index)
OFFICIAL = {
    "aspect_ratio": 0.75,
    "shift_factor": 0.16,
    "shift_prob": 0.3,
    "flip_prob": 0.5,
    "num_joints_half_body": 8,
    "prob_half_body": 0.3,
    "scale_factor": 0.35,
    "rot_factor": 45,
    "rot_prob": 0.6,
}


@pytest.fixture(scope="module")
def reference(reference_dir):
    return np.load(reference_dir / "data.npz")


@pytest.fixture(scope="module")
def facts(reference_dir):
    return json.loads((reference_dir / "data.json").read_text())


def person(reference, index):
    """Centre, size, joints and visibility of a reference person."""
    return (
        reference["person_center"][index],
        reference["person_scale"][index] * 200,
        reference["person_joints"][index, :, :2],
        reference["person_visible"][index, :, 0],
    )


def official_draws(reference, index):
    """Our augmentation of a reference person with the official random numbers."""
    random = np.random.RandomState(1000 + index)
    return draw_augmentation(random, *person(reference, index), is_upper_K=IS_UPPER, **OFFICIAL)


@pytest.mark.parametrize("index", range(12))
def test_the_official_draws_give_the_official_sample(reference, facts, index):
    """Parameters, joints and weights of the whole training pipeline."""
    _, _, joints, visible = person(reference, index)
    crop = official_draws(reference, index)

    # there the image is mirrored, and the centre with it
    _, width, _ = facts["images"][str(reference["person_image_id"][index])]["shape"]
    x = width - 1 - crop.center[0] if crop.flip else crop.center[0]
    found = [x, crop.center[1], *crop.size / 200, crop.rotation_deg, crop.flip]
    expected = reference["train_params_cx_cy_sx_sy_rot_flip"][index]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)

    matrix = crop_affine(crop.center, crop.size, crop.rotation_deg, CROP_WH, crop.flip)
    crop_joints, crop_visible = joints_in_crop(
        joints, visible, matrix, FLIP_INDEX if crop.flip else None
    )
    seen = crop_visible > 0
    np.testing.assert_allclose(
        crop_joints[seen], reference["train_joints"][index, seen, :2], atol=PIXELS
    )
    _, weights = encode(crop_joints[None], crop_visible[None], CROP_WH, HEATMAP_WH, sigma=2.0)
    np.testing.assert_array_equal(weights[0], reference["train_target_weight"][index, :, 0])


@pytest.mark.parametrize("index", range(12))
def test_the_official_draws_give_the_official_pixels(reference, official_pixels, coco_4, index):
    image = read_image(coco_4 / f"val2017/{reference['person_image_id'][index]:012d}.jpg")
    crop = official_draws(reference, index)
    matrix = crop_affine(crop.center, crop.size, crop.rotation_deg, CROP_WH, crop.flip)
    pixels = normalize(warp_crop(image, matrix, CROP_WH)).ravel()[reference["norm_idx"]]
    grey_levels = np.abs(pixels - official_pixels["train_img_samples"][index]) * 255 * 0.229
    assert grey_levels.mean() < 0.5
    assert grey_levels.max() <= 8


@pytest.mark.parametrize(("keep_upper", "name"), [(True, "upper"), (False, "lower")])
def test_half_bodies_are_the_official_ones(reference, keep_upper, name):
    for index, expected in enumerate(reference[f"halfbody_{name}"]):
        _, _, joints, visible = person(reference, index)
        assert (visible.sum() > 8) == reference["halfbody_eligible_gt8"][index]
        region = half_body(joints, visible, IS_UPPER, keep_upper, aspect_ratio=0.75)
        found = np.full(4, np.nan) if region is None else [*region.center, *region.size / 200]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_half_a_body_in_one_place_is_no_region():
    joints, visible = np.full((17, 2), 50.0), np.ones(17)
    assert half_body(joints, visible, IS_UPPER, keep_upper=True, aspect_ratio=0.75) is None


@pytest.fixture(scope="module")
def draws(reference):
    """6000 crops of a person with 17 visible joints."""
    rng = np.random.default_rng(0)
    center, size, joints, _ = person(reference, 0)
    everything_visible = np.ones(17)
    crops = [
        draw_augmentation(
            rng, center, size, joints, everything_visible, is_upper_K=IS_UPPER, **OFFICIAL
        )
        for _ in range(6000)
    ]
    upper = half_body(joints, everything_visible, IS_UPPER, keep_upper=True, aspect_ratio=0.75)
    lower = half_body(joints, everything_visible, IS_UPPER, keep_upper=False, aspect_ratio=0.75)
    centers = np.array([crop.center for crop in crops])
    kind = np.full(len(crops), "whole")
    kind[(centers == upper.center).all(axis=1)] = "upper"
    kind[(centers == lower.center).all(axis=1)] = "lower"
    base = np.where(kind == "upper", upper.size[0], np.where(kind == "lower", lower.size[0], 0))
    base = np.where(kind == "whole", size[0], base)
    return {
        "kind": kind,
        "shift": (centers - center)[kind == "whole"] / size,
        "scale": np.array([crop.size[0] for crop in crops]) / base,
        "rotation": np.array([crop.rotation_deg for crop in crops]),
        "flip": np.array([crop.flip for crop in crops]),
    }


def assert_share(mask, expected):
    """Within four standard errors."""
    assert abs(np.mean(mask) - expected) < 4 * np.sqrt(expected * (1 - expected) / len(mask))


def test_draws_have_the_official_distributions(draws, facts):
    official = facts["aug_distribution_20000"]

    scale = draws["scale"]
    np.testing.assert_allclose([scale.min(), scale.max()], [0.65, 1.35], rtol=1e-6)
    assert_share(scale < 0.65 + 1e-6, official["frac_scale_clipped_low"])
    assert_share(scale > 1.35 - 1e-6, official["frac_scale_clipped_high"])

    rotation = draws["rotation"]
    assert np.abs(rotation).max() == official["rot_max"]
    assert_share(rotation == 0, official["frac_rot_zero"])
    assert rotation[rotation != 0].std() == pytest.approx(official["rot_std_nonzero"], rel=0.05)

    assert_share(draws["flip"], 0.5)
    assert_share(draws["kind"] != "whole", 0.3)
    # standard normal < 0.5, the official condition
    assert_share(draws["kind"][draws["kind"] != "whole"] == "upper", 0.6915)

    shift = draws["shift"]
    assert_share((shift != 0).any(axis=1), 0.3)
    shift = shift[(shift != 0).any(axis=1)]
    assert np.abs(shift).max() <= 0.16
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(shift.std(axis=0), 0.16 / np.sqrt(3), rtol=0.05)


def test_flip_swaps_left_and_right():
    image = np.zeros((100, 80, 3), dtype=np.uint8)
    joints, visible = np.zeros((17, 2)), np.zeros(17)
    joints[5], visible[5] = (30, 40), 1  # the left shoulder, and where it is the image is white
    cv2.circle(image, (30, 40), 3, (255, 255, 255), -1)
    matrix = crop_affine([40, 50], [75, 100], 20.0, CROP_WH, flip=True)
    crop_joints, crop_visible = joints_in_crop(joints, visible, matrix, FLIP_INDEX)
    assert np.flatnonzero(crop_visible).tolist() == [6]
    x, y = crop_joints[6].round().astype(int)
    assert warp_crop(image, matrix, CROP_WH)[y, x].tolist() == [255, 255, 255]
