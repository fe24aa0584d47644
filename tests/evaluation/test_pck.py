"""PCK and PCKh against plain loops of their definitions, and where they are reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pose_sets import CROWDPOSE, annotation_set, write_set

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.coco import Boxes, load_annotations
from sdpose.errors import UserError
from sdpose.evaluation.metrics import metric_settings, pck_metrics, why_not_reported
from sdpose.evaluation.pck import pck, pckh

MPII = Skeleton(  # a part of it, in MPII's names
    keypoints=("right_ankle", "pelvis", "thorax", "upper_neck", "head_top"),
    flip_pairs=(),
    sigmas=(0.08,) * 5,
)


def persons_of(skeleton, folder, seed=0, change=None):
    document = annotation_set(skeleton, seed)
    for row in document["annotations"]:
        row["iscrowd"] = 0
        if change:
            change(row)
    annotations = load_annotations(write_set(folder, document), skeleton)
    persons = annotations.persons()
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(persons.joints.shape) * rng.choice(
        [1, 10, 60], (len(persons), 1, 1)
    )
    scores = rng.random((*persons.joints.shape[:2], 1))
    found = np.concatenate([persons.joints + noise, scores], axis=2).astype(np.float32)
    truth = {row["id"]: row for row in document["annotations"]}
    return annotations, persons, found, [truth[i] for i in persons.ann_id.tolist()]


def test_pck_is_the_mean_over_keypoints_of_the_share_near_enough(tmp_path):
    """mmpose 0.29's `PCK`: 0.2 of the longer side of the annotation's box, each keypoint equal."""
    annotations, persons, found, rows = persons_of(CROWDPOSE, tmp_path)
    shares = []
    for k in range(14):
        near = []
        for pose, row in zip(found.tolist(), rows, strict=True):
            x, y, v = row["keypoints"][3 * k : 3 * k + 3]
            if v > 0:
                distance = math.hypot(pose[k][0] - x, pose[k][1] - y)
                near.append(distance / max(row["bbox"][2:]) < 0.2)
        shares.append(sum(near) / len(near))
    expected = sum(shares) / len(shares)
    assert 0.3 < expected < 0.98
    assert pck(annotations, persons, found) == pytest.approx(expected, rel=0, abs=1e-9)


def head_box(row):
    x, y, width, height = row["bbox"]
    return [x, y, x + 0.3 * width, y + 0.2 * height]


def as_mpii_trb(row):
    row["headbox"] = head_box(row)


def as_posetrack(row):
    x1, y1, x2, y2 = head_box(row)
    row["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]


def as_mmpose(row):
    x1, y1, x2, y2 = head_box(row)
    row["head_size"] = 0.6 * math.hypot(x2 - x1, y2 - y1)


@pytest.mark.parametrize("change", [as_mpii_trb, as_posetrack, as_mmpose])
def test_pckh_is_the_share_within_half_a_head(change, tmp_path):
    """MPII's: pelvis and thorax left out, 0.5 x 0.6 x the diagonal of the head box."""
    annotations, persons, found, rows = persons_of(MPII, tmp_path, change=change)
    near = []
    for pose, row in zip(found.tolist(), rows, strict=True):
        x1, y1, x2, y2 = head_box(row)
        for k in (0, 3, 4):
            x, y, v = row["keypoints"][3 * k : 3 * k + 3]
            if v > 0:
                distance = math.hypot(pose[k][0] - x, pose[k][1] - y)
                near.append(distance <= 0.5 * 0.6 * math.hypot(x2 - x1, y2 - y1))
    expected = sum(near) / len(near)
    assert 0.2 < expected < 0.98
    assert pckh(annotations, persons, found) == pytest.approx(expected, rel=0, abs=1e-9)


def test_persons_without_a_head_do_not_count_for_pckh(tmp_path):
    def some(row):
        if row["id"] % 2:
            as_posetrack(row)
        else:
            row["bbox_head"] = [0, 0, 0, 0]

    annotations, persons, found, _ = persons_of(MPII, tmp_path, change=some)
    found[persons.ann_id % 2 == 0] = 1e4
    spoiled = pckh(annotations, persons, found)
    assert spoiled > 0.2
    found[persons.ann_id % 2 == 1, :, :2] = persons.joints[persons.ann_id % 2 == 1]
    assert pckh(annotations, persons, found) == 1.0


def test_without_labelled_keypoints_it_is_minus_one(tmp_path):
    annotations, persons, found, _ = persons_of(MPII, tmp_path, change=as_mmpose)
    nobody = persons.take(np.zeros(0, np.int64))
    assert pck(annotations, nobody, found[:0]) == -1
    assert pckh(annotations, nobody, found[:0]) == -1


def test_which_sets_get_them(tmp_path):
    annotations, persons, found, _ = persons_of(MPII, tmp_path, change=as_mmpose)
    metrics = pck_metrics(annotations, persons, found)
    assert list(metrics) == ["PCK", "PCKh"]
    settings = metric_settings(annotations, metrics)
    assert (settings["pck_thr"], settings["pckh_thr"]) == (0.2, 0.5)

    annotations, persons, found, _ = persons_of(MPII, tmp_path)
    assert list(pck_metrics(annotations, persons, found)) == ["PCK"]
    columns = vars(persons)
    of_detector = Boxes(**{n: columns[n] for n in Boxes.__dataclass_fields__})
    assert pck_metrics(annotations, of_detector, found) == {}

    annotations, persons, found, _ = persons_of(COCO, tmp_path, change=as_mmpose)
    assert pck_metrics(annotations, persons, found) == {}
    assert metric_settings(annotations, {}) == {}


def test_what_cannot_choose_the_best_checkpoint_is_named(tmp_path):
    plain, *_ = persons_of(MPII, tmp_path)
    assert why_not_reported("AP", plain, True) == ""
    assert why_not_reported("PCK", plain, False) == ""
    assert "use_gt_bbox=true" in why_not_reported("PCK", plain, True)
    assert "headbox ([x1, y1, x2, y2])" in why_not_reported("PCKh", plain, False)
    with_heads, *_ = persons_of(MPII, tmp_path, change=as_mmpose)
    assert why_not_reported("PCKh", with_heads, False) == ""
    coco, *_ = persons_of(COCO, tmp_path)
    assert "COCO" in why_not_reported("PCK", coco, False)


def test_a_head_box_that_is_none_is_named(tmp_path):
    def bad(row):
        row["headbox"] = [1, 2, 3] if row["id"] == 5 else [1, 2, 3, 4]

    with pytest.raises(UserError, match=r"'headbox' is missing or not a list of 4.*annotation 5"):
        persons_of(MPII, tmp_path, change=bad)
