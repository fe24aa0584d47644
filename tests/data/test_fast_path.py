"""data.pipeline fast: what training sees is what the exact pipeline shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from packed import fast_experiment

from sdpose.config.schema import COCO
from sdpose.data.augment import half_body
from sdpose.data.device import crops_on_device, on_device
from sdpose.data.images import NORMALIZED
from sdpose.data.loader import build_train_loader
from sdpose.data.pack import open_pack
from sdpose.data.randomness import sample_keys
from sdpose.geometry import box_to_center_size, invert_affine
from sdpose.prepare.dataset import prepare_coco

CROP_WH = (192, 256)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pack(coco_mini, tmp_path_factory):
    return open_pack(
        str(prepare_coco(fast_experiment(coco_mini, tmp_path_factory.mktemp("packs"))).pack)
    )


@pytest.fixture(scope="module")
def exact_epoch(coco_mini):
    return list(build_train_loader(fast_experiment(coco_mini, "")).epoch(1))


def grey_levels(images_N3HW, others_N3HW):
    step_3 = torch.from_numpy(NORMALIZED).diff(dim=1)[:, 0].reshape(1, 3, 1, 1)
    return ((images_N3HW - others_N3HW) / step_3).abs().round()


def assert_same(batches, others):
    """Targets and names to the last bit; a pixel in ten thousand may be rounded another way."""
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        difference = grey_levels(batch["images_N3HW"], other["images_N3HW"])
        assert (difference > 0).float().mean() < 1e-4
        assert difference.mean() < 1e-4
        for name in batch.keys() - {"images_N3HW"}:
            assert batch[name].equal(other[name]), name


def test_both_pipelines_give_the_same_batches(coco_mini, pack, exact_epoch):
    """In the same order, with workers and after a restart in the epoch."""
    loader = build_train_loader(fast_experiment(coco_mini, "", workers=2), pack=pack)
    try:
        assert_same(list(on_device(loader.epoch(1), CPU, CROP_WH)), exact_epoch)
        assert_same(list(on_device(loader.epoch(1, 4), CPU, CROP_WH)), exact_epoch[4:])
    finally:
        loader.close()


def test_torch_warps_as_opencv_does(coco_mini, pack, exact_epoch):
    """What a GPU runs: not one pixel of the epoch differs from the exact pipeline's."""
    loader = build_train_loader(fast_experiment(coco_mini, ""), pack=pack)
    for raw, expected in zip(loader.epoch(1), exact_epoch, strict=True):
        names = ("pixels_B", "offsets_N", "regions_N4", "inverse_N23")
        found_N3HW = crops_on_device(*(raw[name] for name in names), CROP_WH)
        assert not grey_levels(found_N3HW, expected["images_N3HW"]).any()


def test_what_training_sees_has_the_official_distributions(coco_mini, pack):
    """Moments over 100,000 draws, read off the matrices that the crops are made with."""
    samples = build_train_loader(fast_experiment(coco_mini, ""), pack=pack)._samples
    everyone, epochs = np.arange(len(samples)), 100_000 // len(samples) + 1
    persons = samples._persons(everyone)
    rows = np.tile(everyone, epochs)
    keys = np.concatenate([sample_keys(0, epoch, everyone) for epoch in range(1, epochs + 1)])
    matrices = samples._draw(samples._persons(rows), keys).matrices
    assert len(matrices) >= 100_000

    inverse = np.stack([invert_affine(matrix) for matrix in matrices])
    centers = inverse @ [CROP_WH[0] / 2, CROP_WH[1] / 2, 1]
    sizes = CROP_WH[0] / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    flip = np.linalg.det(matrices[:, :, :2]) < 0
    sign = np.where(flip, -1, 1)
    rotation = np.degrees(np.arctan2(sign * matrices[:, 1, 0], sign * matrices[:, 0, 0]))

    box_centers, box_sizes = box_to_center_size(persons.boxes_xywh, 0.75, 1.25)
    halves = {
        upper: [
            half_body(joints, visible, np.array(COCO.is_upper), upper, 0.75)
            if visible.sum() > 8
            else None
            for joints, visible in zip(persons.joints, persons.visible, strict=True)
        ]
        for upper in (True, False)
    }
    # Persons whose two halves differ, so that it shows which one was drawn.
    can_halve = np.array(
        [
            a is not None and b is not None and np.abs(a.center - b.center).max() > 1
            for a, b in zip(halves[True], halves[False], strict=True)
        ]
    )
    assert can_halve.sum() > 10

    def is_half(upper):
        regions = [(h.center, h.size[0]) if h else ((np.inf, np.inf), 1) for h in halves[upper]]
        center, width = (np.array(column) for column in zip(*regions, strict=True))
        return np.abs(centers - center[rows]).max(axis=1) < 1e-2, width

    (upper, upper_width), (lower, lower_width) = is_half(True), is_half(False)
    never_halved = (persons.visible.sum(axis=1) <= 8)[rows]
    whole = never_halved & ~upper & ~lower
    halved = can_halve[rows]
    assert_share((upper | lower)[halved], 0.3)
    assert_share(upper[halved & (upper | lower)], 0.6915)  # a standard normal below 0.5

    assert_share(flip, 0.5)
    assert_moments(rotation[np.abs(rotation) > 1e-3], 0, 43.175)  # N(0, 45) clipped at 90
    assert_share(np.abs(rotation) > 1e-3, 0.6)
    assert_share(np.abs(rotation) > 90 - 1e-3, 0.6 * 0.0455)
    assert np.abs(rotation).max() < 90 + 1e-3

    for chosen, width in (
        (whole, box_sizes[:, 0]),
        (upper & halved, upper_width),
        (lower & halved, lower_width),
    ):
        scale = (sizes / width[rows])[chosen]
        assert_moments(scale, 1, 0.25143)  # 1 + N(0, 0.35) clipped at one standard deviation
        assert_share(scale < 0.65 + 1e-4, 0.1587)
        assert_share(scale > 1.35 - 1e-4, 0.1587)

    shift = ((centers - box_centers[rows]) / box_sizes[rows])[whole]
    moved = np.abs(shift).max(axis=1) > 1e-4
    assert_share(moved, 0.3)
    assert np.abs(shift).max() < 0.16 + 1e-4
    for axis in range(2):
        assert_moments(shift[moved, axis], 0, 0.16 / np.sqrt(3))


def assert_share(mask, expected):
    """Within 4.5 standard errors."""
    error = np.sqrt(expected * (1 - expected) / len(mask))
    assert abs(np.mean(mask) - expected) < 4.5 * error


def assert_moments(values, mean, deviation):
    error = deviation / np.sqrt(len(values))
    assert abs(values.mean() - mean) < 4.5 * error
    assert values.std() == pytest.approx(deviation, abs=4.5 * error)
