"""Pose scores and OKS-NMS: the official numbers, and the plain loops that they replace."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpose.config.schema import COCO
from sdpose.evaluation.nms import (
    SOFT_NMS_MAX_POSES,
    oks_matrix,
    oks_nms,
    rescore,
    rows_by_image,
    soft_oks_nms,
    suppress,
)

SIGMAS = np.array(COCO.sigmas)


@pytest.fixture(scope="module")
def arrays(reference_dir):
    return np.load(reference_dir / "data.npz")


@pytest.fixture(scope="module")
def facts(reference_dir):
    return json.loads((reference_dir / "data.json").read_text())


@pytest.mark.parametrize("case", ["ap", "nms"])
def test_kept_sets_and_scores_are_the_official_ones(arrays, facts, case):
    _, rows = np.unique(arrays[f"{case}_bbox_id"], return_index=True)  # an id counts once
    keypoints, boxes = arrays[f"{case}_preds"][rows], arrays[f"{case}_boxes"][rows]
    image_ids, box_ids = arrays[f"{case}_image_id"][rows], arrays[f"{case}_bbox_id"][rows]
    scores = rescore(keypoints[:, :, 2], boxes[:, 5], vis_thr=0.2)
    kept = suppress(
        image_ids, keypoints[:, :, :2], boxes[:, 4], scores, SIGMAS, thr=0.9, soft=False
    )
    for image_id, expected_ids, expected_scores in facts[case]["kept"]:
        of_image = [row for row in kept if image_ids[row] == image_id]
        assert box_ids[of_image].tolist() == expected_ids
        np.testing.assert_allclose(scores[of_image], expected_scores, atol=1e-6)
    assert len(kept) == sum(len(ids) for _, ids, _ in facts[case]["kept"])


def test_oks_and_kept_poses_of_one_image(arrays, facts):
    rows = arrays["nms_image_id"] == facts["oks_nms_direct_image"]
    keypoints, boxes = arrays["nms_preds"][rows], arrays["nms_boxes"][rows]
    box_ids = arrays["nms_bbox_id"][rows]
    oks = oks_matrix(keypoints[:, :, :2], boxes[:, 4], SIGMAS)
    np.testing.assert_allclose(oks, arrays["oks_iou_197388"], atol=1e-7)
    for threshold, expected in facts["oks_nms_direct"].items():
        kept = oks_nms(keypoints[:, :, :2], boxes[:, 4], boxes[:, 5], SIGMAS, float(threshold))
        # two of the twelve rows are exact copies: either may stand for both
        assert box_ids[kept].tolist() == box_ids[expected].tolist()


# ------------------------------------------------------------------- against plain loops


def plain_oks(a, b, area_a, area_b):
    total = 0.0
    for (xa, ya), (xb, yb), sigma in zip(a, b, COCO.sigmas, strict=True):
        variance = (2 * sigma) ** 2
        distance = float(xa - xb) ** 2 + float(ya - yb) ** 2
        total += math.exp(-distance / variance / ((area_a + area_b) / 2 + np.spacing(1)) / 2)
    return total / len(COCO.sigmas)


def plain_nms(keypoints, areas, scores, SIGMAS, threshold):
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [
            i
            for i in left
            if plain_oks(keypoints[best], keypoints[i], areas[best], areas[i]) <= threshold
        ]
    return kept


def plain_soft_nms(keypoints, areas, scores, SIGMAS, threshold):
    left = [[i, float(score)] for i, score in enumerate(scores)]
    kept = []
    while left and len(kept) < 20:
        best = max(left, key=lambda entry: (entry[1], -entry[0]))
        left.remove(best)
        kept.append(best[0])
        for entry in left:
            i, j = best[0], entry[0]
            oks = plain_oks(keypoints[i], keypoints[j], areas[i], areas[j])
            entry[1] *= math.exp(-(oks**2) / threshold)
    return kept


def crowd(seed, num_people, num_copies):
    """Poses in one image: people, and near copies of them."""
    rng = np.random.default_rng(seed)
    people = rng.uniform(0, 500, (num_people, 1, 17, 2))
    spread = rng.choice([0.5, 3, 12], (num_people, num_copies, 1, 1))
    poses = people + rng.standard_normal((num_people, num_copies, 17, 2)) * spread
    poses = poses.reshape(-1, 17, 2).astype(np.float32)
    areas = rng.uniform(2000, 40000, len(poses)).astype(np.float32)
    scores = (rng.permutation(len(poses)) + 1).astype(np.float32) / 64  # no ties
    return poses, areas, scores


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 8), st.floats(0.3, 0.95))
def test_nms_equals_the_plain_loop(seed, num_people, num_copies, threshold):
    poses, areas, scores = crowd(seed, num_people, num_copies)
    expected = plain_nms(poses, areas, scores, SIGMAS, threshold)
    assert oks_nms(poses, areas, scores, SIGMAS, threshold).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 8))
def test_soft_nms_equals_the_plain_loop(seed, num_people, num_copies):
    poses, areas, scores = crowd(seed, num_people, num_copies)
    expected = plain_soft_nms(poses, areas, scores, SIGMAS, 0.9)
    kept = soft_oks_nms(poses, areas, scores, SIGMAS, 0.9)
    assert kept.tolist() == expected
    assert len(kept) == min(len(poses), SOFT_NMS_MAX_POSES)


@pytest.mark.parametrize("nms", [oks_nms, soft_oks_nms])
def test_the_sigmas_decide_what_is_a_copy(nms):
    """Of five keypoints: two poses 6 pixels apart are one for wide sigmas, two for narrow ones."""
    poses = np.full((3, 5, 2), 50.0, dtype=np.float32) + np.array([[[0]], [[6]], [[900]]])
    areas, scores = np.full(3, 4000.0), np.array([0.9, 0.8, 0.5])
    wide, narrow = np.full(5, 0.2), np.full(5, 0.01)
    order = {oks_nms: [0, 2], soft_oks_nms: [0, 2, 1]}[nms]
    assert nms(poses, areas, scores, wide, 0.5).tolist() == order
    assert nms(poses, areas, scores, narrow, 0.5).tolist() == [0, 1, 2]


def test_equal_scores_keep_the_earlier_row():
    pose = np.full((3, 17, 2), 50.0, dtype=np.float32)
    areas, scores = np.full(3, 1000.0), np.full(3, 0.5)
    assert oks_nms(pose, areas, scores, SIGMAS, 0.9).tolist() == [0]
    assert soft_oks_nms(pose, areas, scores, SIGMAS, 0.9).tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------------- scores


def test_a_pose_scores_its_box_times_its_mean_joint_above_the_threshold():
    joints = np.zeros((3, 17), dtype=np.float32)
    joints[0, :3] = [0.9, 0.5, 0.2]  # 0.2 is not above 0.2
    joints[1, :] = 0.1
    joints[2, :] = 2.0
    scores = rescore(joints, [0.5, 1.0, 0.25], vis_thr=0.2)
    np.testing.assert_allclose(scores, [0.35, 0.0, 0.5], rtol=1e-6)


def test_images_come_by_first_appearance():
    assert [rows.tolist() for rows in rows_by_image(np.array([5, 1, 5, 9, 1]))] == [
        [0, 2],
        [1, 4],
        [3],
    ]
    assert rows_by_image(np.array([], dtype=np.int64)) == []
