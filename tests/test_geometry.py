"""Boxes, affines and crops against the official code's numbers, and their identities."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpose.data.images import normalize, read_image, warp_crop
from sdpose.geometry import apply_affine, box_to_center_size, crop_affine, invert_affine

CROP_WH = (192, 256)
PIXELS = 1e-3


@pytest.fixture(scope="module")
def reference(reference_dir):
    return np.load(reference_dir / "data.npz")


@pytest.mark.parametrize(
    ("boxes", "center", "scale"),
    [
        ("person_clean_bbox_xywh", "person_center", "person_scale"),
        ("det_bbox", "det_center", "det_scale"),
    ],
)
def test_boxes_become_the_official_regions(reference, boxes, center, scale):
    centers_N2, sizes_N2 = box_to_center_size(reference[boxes], 0.75, 1.25)
    np.testing.assert_array_equal(centers_N2, reference[center])
    np.testing.assert_allclose(sizes_N2 / 200, reference[scale], rtol=2e-7)


@pytest.mark.parametrize("rotation", [0, 30])
def test_affines_and_joints_are_the_official_ones(reference, rotation):
    sizes_N2 = reference["person_scale"] * 200
    for person, (center, size) in enumerate(zip(reference["person_center"], sizes_N2, strict=True)):
        matrix = crop_affine(center, size, rotation, CROP_WH)
        official = reference[f"affine_r{rotation}"][person]
        np.testing.assert_allclose(matrix, official, atol=PIXELS)
        official_inverse = reference[f"affine_inv_r{rotation}"][person]
        np.testing.assert_allclose(invert_affine(matrix), official_inverse, atol=PIXELS)

        visible = reference["person_visible"][person, :, 0] > 0
        joints = apply_affine(reference["person_joints"][person, visible, :2], matrix)
        official_joints = reference[f"joints_r{rotation}"][person, visible, :2]
        np.testing.assert_allclose(joints, official_joints, atol=PIXELS)


@pytest.mark.parametrize("rotation", [0, 30])
def test_crops_and_inputs_are_the_official_ones(reference, official_pixels, coco_4, rotation):
    for row, person in enumerate(reference["crop_person_index"]):
        image = read_image(coco_4 / f"val2017/{reference['person_image_id'][person]:012d}.jpg")
        center, size = reference["person_center"][person], reference["person_scale"][person] * 200
        crop = warp_crop(image, crop_affine(center, size, rotation, CROP_WH), CROP_WH)
        difference = np.abs(crop.astype(int) - official_pixels[f"crop_r{rotation}"][row])
        assert difference.mean() < 0.5
        assert difference.max() <= 8

        samples = normalize(official_pixels[f"crop_r{rotation}"][row]).ravel()[
            reference["norm_idx"]
        ]
        np.testing.assert_allclose(
            samples, official_pixels[f"norm_samples_r{rotation}"][row], atol=1e-6
        )


coordinate = st.floats(-2000, 2000)
region = st.tuples(
    st.tuples(coordinate, coordinate),
    st.floats(1, 3000).map(lambda width: (width, width / 0.75)),
    st.floats(-180, 180),
    st.just(CROP_WH),
    st.booleans(),
)


@given(region, st.tuples(coordinate, coordinate))
def test_affine_then_inverse_is_the_identity(region, point):
    matrix = crop_affine(*region)
    back = apply_affine(apply_affine(point, matrix), invert_affine(matrix))
    np.testing.assert_allclose(back, point, atol=1e-6)


@given(region, st.tuples(coordinate, coordinate))
def test_a_mirrored_crop_is_the_crop_of_the_mirrored_image(region, point):
    """Up to the float32 rounding of centre and corners, which is seen from afar enlarged."""
    center, size, rotation, crop_wh, _ = region
    width = 640
    distance = np.hypot(point[0] - center[0], point[1] - center[1])

    def mirror(point):
        return (width - 1 - point[0], point[1])

    np.testing.assert_allclose(
        apply_affine(point, crop_affine(center, size, rotation, crop_wh, flip=True)),
        apply_affine(mirror(point), crop_affine(mirror(center), size, rotation, crop_wh)),
        atol=1e-3 * (1 + distance / size[0]) * crop_wh[0] / size[0],
    )


@given(region, st.tuples(coordinate, coordinate))
def test_mirroring_twice_is_the_identity(region, point):
    """To mirror a crop: there by the plain matrix's inverse, back by the mirrored one."""
    center, size, _, crop_wh, _ = region
    plain = crop_affine(center, size, 0.0, crop_wh)
    mirrored = crop_affine(center, size, 0.0, crop_wh, flip=True)

    def mirror(point):
        return apply_affine(apply_affine(point, invert_affine(plain)), mirrored)

    np.testing.assert_allclose(mirror(point)[0], crop_wh[0] - point[0], atol=1e-6)
    np.testing.assert_allclose(mirror(mirror(point)), point, atol=1e-6)


@pytest.mark.parametrize("rotation", [0.0, -37.5])
def test_flip_in_the_matrix_gives_the_pixels_of_a_flipped_image(coco_4, rotation):
    image = read_image(coco_4 / "val2017/000000000785.jpg")
    width = image.shape[1]
    center, size = np.array([390.14, 218.07]), np.array([325.0, 433.3])
    folded = warp_crop(image, crop_affine(center, size, rotation, CROP_WH, flip=True), CROP_WH)
    mirrored_center = np.array([width - 1 - center[0], center[1]])
    plain_matrix = crop_affine(mirrored_center, size, rotation, CROP_WH)
    flipped = warp_crop(cv2.flip(image, 1), plain_matrix, CROP_WH)
    difference = np.abs(folded.astype(int) - flipped)
    assert difference.mean() < 0.05  # cv2 rounds coordinates to 1/32 pixel
    assert difference.max() <= 8
