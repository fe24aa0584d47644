"""Kinds of errors on poses whose errors are known, and AP as COCO counts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sdpose.config.schema import COCO as PERSON
from sdpose.data.coco import CocoAnnotations, load_annotations
from sdpose.evaluation.coco_ap import average_precision, coco_dataset
from sdpose.report.curves import precision_curves
from sdpose.report.keypoint_errors import (
    GOOD,
    INVERSION,
    JITTER,
    MISS,
    SWAP,
    UNLABELLED,
    corrected_ap,
    joint_errors,
    keypoint_similarity,
    match,
)
from sdpose.tools.synthetic.dataset import write_synthetic_coco

AREA = 100.0**2


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> CocoAnnotations:
    folder = tmp_path_factory.mktemp("coco")
    write_synthetic_coco(folder, num_train=1, num_val=40, seed=3)
    return load_annotations(folder / "annotations/person_keypoints_val2017.json")


def results_of(annotations: CocoAnnotations, keypoints_NK3: np.ndarray) -> list[dict[str, Any]]:
    """A result for each person that is to be found, the first ones with the highest score."""
    persons = annotations.persons()
    rows = [annotations.ann_ids.tolist().index(i) for i in persons.ann_id.tolist()]
    return [
        {
            "image_id": int(image),
            "category_id": annotations.person_category["id"],
            "keypoints": keypoints_NK3[row].ravel().tolist(),
            "score": 1 - n / 1000,
        }
        for n, (row, image) in enumerate(zip(rows, persons.image_id, strict=True))
    ]


@pytest.fixture(scope="module")
def noisy(annotations: CocoAnnotations) -> list[dict[str, Any]]:
    """Poses with shifted, inverted and lost joints."""
    rng = np.random.default_rng(0)
    keypoints = annotations.keypoints.copy()
    size = np.sqrt(annotations.areas)[:, None, None]
    keypoints[:, :, :2] += rng.normal(0, 0.07, keypoints[:, :, :2].shape) * size
    inverted = rng.random(len(keypoints)) < 0.2
    keypoints[inverted] = keypoints[inverted][:, list(PERSON.flip_index)]
    return results_of(annotations, keypoints)


def two_persons() -> np.ndarray:
    """Far enough apart for every joint to be near nothing but itself."""
    joints = np.zeros((2, 17, 3))
    for person, left in enumerate((0.0, 5000.0)):
        joints[person, :, 0] = left + 200 * np.arange(17)
        joints[person, :, 1] = 100
    joints[:, :, 2] = 2
    return joints


def offset(joint: int, similarity: float) -> float:
    """How far away a joint has this similarity."""
    return float(np.sqrt(-np.log(similarity) * 2 * AREA * (2 * PERSON.sigmas[joint]) ** 2))


def test_every_kind_of_error_is_told_from_the_others() -> None:
    joints = two_persons()
    pose = joints[0, :, :2].copy()
    pose[1, 1] += offset(1, 0.86)  # good
    pose[2, 1] += offset(2, 0.84)  # jitter
    pose[3, 1] += offset(3, 0.51)  # jitter
    pose[4, 1] += offset(4, 0.49)  # a miss
    pose[5] = joints[0, 6, :2]  # inversion
    pose[7] = joints[1, 7, :2]  # swap, the same joint
    pose[9] = joints[1, 10, :2]  # swap, the mirrored joint
    pose[11] = joints[0, 13, :2]  # another joint of one's own, not the mirrored one: a miss
    joints[0, 15, 2] = 0  # not annotated
    joints[0, 16, 2] = 0
    pose[15] = joints[0, 16, :2]
    kinds, similarity, nearest = joint_errors(pose, joints, np.full(2, AREA), 0, PERSON)
    expected = np.full(17, GOOD)
    expected[[2, 3]], expected[[4, 11]] = JITTER, MISS
    expected[5], expected[[7, 9]] = INVERSION, SWAP
    expected[[15, 16]] = UNLABELLED
    np.testing.assert_array_equal(kinds, expected)
    np.testing.assert_allclose(similarity[[1, 2, 3, 4]], [0.86, 0.84, 0.51, 0.49])
    np.testing.assert_allclose(nearest[[5, 7, 9]], 1)
    assert np.isnan(similarity[15])


def test_the_nearest_joint_decides() -> None:
    joints = two_persons()
    joints[1, 7, :2] = joints[0, 7, :2] + [2 * offset(7, 0.7), 0]
    pose = joints[0, :, :2].copy()
    pose[7, 0] += offset(7, 0.7) * 1.1  # nearer to the other's elbow, though near to one's own
    kinds, similarity, _ = joint_errors(pose, joints, np.full(2, AREA), 0, PERSON)
    assert similarity[7] > 0.5
    assert kinds[7] == SWAP


def test_oks_and_matches_are_pycocotools(
    annotations: CocoAnnotations, noisy: list[dict[str, Any]]
) -> None:
    matches = match(annotations, noisy)
    truth = COCO()
    truth.dataset = coco_dataset(annotations)
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes([dict(row) for row in noisy]), "keypoints")
    evaluator.params.catIds = [1]
    evaluator.evaluate()
    assert len(matches.rows) > 30
    for row, person, oks in zip(matches.rows, matches.persons, matches.oks, strict=True):
        image = noisy[row]["image_id"]
        found = [d["id"] for d in sorted(evaluator._dts[image, 1], key=lambda d: -d["score"])]
        wanted = [g["id"] for g in evaluator._gts[image, 1]]
        matrix = evaluator.ious[image, 1]
        expected = matrix[found.index(row + 1), wanted.index(annotations.ann_ids[person])]
        assert oks == pytest.approx(expected, abs=1e-12)
    areas = annotations.areas[matches.persons]
    similarity = keypoint_similarity(
        np.array(noisy[matches.rows[0]]["keypoints"]).reshape(-1, 3)[:, :2],
        annotations.keypoints[matches.persons[:1], :, :2],
        areas[:1],
        (2 * np.array(PERSON.sigmas)) ** 2,
    )
    labelled = annotations.keypoints[matches.persons[0], :, 2] > 0
    assert matches.oks[0] == pytest.approx(similarity[0, labelled].mean())


def test_repaired_errors_raise_ap(
    annotations: CocoAnnotations, noisy: list[dict[str, Any]]
) -> None:
    matches = match(annotations, noisy)
    ap = average_precision(annotations, noisy)["AP"]
    for kind in (JITTER, INVERSION, MISS):
        assert matches.count(kind) > 20
        assert corrected_ap(annotations, noisy, matches, kind) > ap + 0.01
    perfect = results_of(annotations, annotations.keypoints)
    assert (
        match(annotations, perfect).count(GOOD)
        == (annotations.keypoints[match(annotations, perfect).persons, :, 2] > 0).sum()
    )


def test_curves_are_pycocotools(annotations: CocoAnnotations, noisy: list[dict[str, Any]]) -> None:
    curves = precision_curves(annotations, noisy)
    truth = COCO()
    truth.dataset = coco_dataset(annotations)
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes([dict(row) for row in noisy]), "keypoints")
    evaluator.params.catIds = [1]
    evaluator.evaluate()
    evaluator.accumulate()
    np.testing.assert_array_equal(curves.precision, evaluator.eval["precision"][:, :, 0, 0, 0])
    assert curves.precision.mean() == pytest.approx(average_precision(annotations, noisy)["AP"])
    to_find = (annotations.num_keypoints > 0) & ~annotations.iscrowd
    counted = sum(persons for *_, persons, _ in curves.sizes)
    assert counted == (to_find & (annotations.areas >= 32**2)).sum()


def test_ap_of_a_joint_knows_nothing_of_the_others(annotations: CocoAnnotations) -> None:
    boxes = annotations.boxes_xywh
    # Persons without a joint are passed over where the pose lies around their box.
    somewhere = (boxes[:, :2] + boxes[:, 2:] / 2)[:, None]
    keypoints = annotations.keypoints.copy()
    keypoints[:, :, :2] = np.where(keypoints[:, :, 2:] > 0, keypoints[:, :, :2], somewhere)
    keypoints[:, 9, 1] = boxes[:, 1] - 0.9 * boxes[:, 3]  # all left wrists are lost
    curves = precision_curves(annotations, results_of(annotations, keypoints))
    assert curves.joint_ap[9] == pytest.approx(0)
    # Not 1 where a pose of one person takes the place of a neighbour that is passed over.
    assert np.delete(curves.joint_ap, 9).min() > 0.98


def test_results_without_a_pose(annotations: CocoAnnotations) -> None:
    matches = match(annotations, [])
    assert matches.kinds.shape == (0, 17)
    assert matches.num_persons > 0
    assert precision_curves(annotations, []).precision.mean() == 0
