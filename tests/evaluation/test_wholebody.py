"""COCO-WholeBody: the official files load, and the metrics are those of xthotcoco."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import xthotcoco
from pose_sets import annotation_set, found_poses, in_parts, wholebody_skeleton, write_set
from xthotcoco import sigmas

from sdpose.config.schema import COCO
from sdpose.data.coco import load_annotations
from sdpose.data.wholebody import PARTS, is_wholebody
from sdpose.errors import UserError
from sdpose.evaluation.metrics import metrics_of
from sdpose.metric_names import METRIC_NAMES, OF_PARTS

pytestmark = pytest.mark.filterwarnings("ignore:hotcoco")

BACKENDS = ["pycocotools", "faster-coco-eval"]
WHOLEBODY = wholebody_skeleton(sigmas.WHOLEBODY)


def official(document):
    """As the official files are: COCO's keypoints in the category, parts in separate keys."""
    rows = []
    for row in document["annotations"]:
        row = in_parts(row)
        row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        for part in ("foot", "face", "lefthand", "righthand"):
            row[f"{part}_valid"] = any(v > 0 for v in row[f"{part}_kpts"][2::3])
        rows.append(row)
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}
    return document | {"annotations": rows, "categories": [category]}


def wholebody_set(seed):
    """Some persons without a part."""
    document = annotation_set(WHOLEBODY, seed)
    rng = np.random.default_rng(seed)
    for row in document["annotations"]:
        for part in PARTS:
            if rng.random() < 0.3:
                row["keypoints"][3 * part.start : 3 * part.stop] = [0] * (3 * part.num_keypoints)
        row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
    return document


def independent(document, results, kind, kind_sigmas):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = xthotcoco.COCO(ann_data=document)
        found = truth.loadRes([in_parts(result) for result in results])
        evaluator = xthotcoco.COCOeval(truth, found, kind, kind_sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_and_parts_are_those_of_an_independent_evaluation(backend, tmp_path):
    for seed in range(2):
        document = wholebody_set(seed)
        results = found_poses(document, seed)
        annotations = load_annotations(write_set(tmp_path, official(document)), WHOLEBODY)
        metrics = metrics_of(annotations, results, backend)
        assert tuple(metrics) == (*METRIC_NAMES, *OF_PARTS)
        kinds = {
            "body": ("keypoints", sigmas.BODY),
            "foot": ("keypoints_foot", sigmas.FOOT),
            "face": ("keypoints_face", sigmas.FACE),
            "left hand": ("keypoints_lefthand", sigmas.HAND),
            "right hand": ("keypoints_righthand", sigmas.HAND),
        }
        expected = dict(
            zip(
                METRIC_NAMES,
                independent(official(document), results, "keypoints_wholebody", sigmas.WHOLEBODY),
                strict=True,
            )
        )
        for part, arguments in kinds.items():
            stats = independent(official(document), results, *arguments)
            expected |= {f"AP ({part})": stats[0], f"AR ({part})": stats[5]}
        assert list(metrics) == list(expected)
        np.testing.assert_allclose(
            list(metrics.values()), list(expected.values()), rtol=0, atol=1e-9
        )
        assert len({round(value, 6) for value in metrics.values()}) > 12


def test_the_official_file_is_the_joined_one(tmp_path):
    """A file with all 133 keypoints in `keypoints` loads the same."""
    document = wholebody_set(0)
    joined = load_annotations(write_set(tmp_path, document), WHOLEBODY)
    split = load_annotations(write_set(tmp_path, official(document)), WHOLEBODY)
    np.testing.assert_array_equal(joined.keypoints, split.keypoints)
    np.testing.assert_array_equal(joined.num_keypoints, split.num_keypoints)
    np.testing.assert_array_equal(joined.persons().joints, split.persons().joints)
    assert is_wholebody(WHOLEBODY)
    assert not is_wholebody(COCO)


def test_the_official_file_still_serves_for_the_body_alone(tmp_path):
    document = wholebody_set(0)
    body = load_annotations(write_set(tmp_path, official(document)), COCO)
    assert body.keypoints.shape[1:] == (17, 3)


def test_a_fractional_flag_is_labelled(tmp_path):
    """COCO-WholeBody's v of face and hands is a confidence; v > 0 is labelled."""
    document = official(wholebody_set(0))
    row = next(r for r in document["annotations"] if r["face_valid"] and not r["iscrowd"])
    row["face_kpts"][2::3] = [0.3 * (v > 0) for v in row["face_kpts"][2::3]]
    annotations = load_annotations(write_set(tmp_path, document), WHOLEBODY)
    persons = annotations.persons()
    of_row = persons.visible[persons.ann_id == row["id"]][0]
    assert set(of_row[23:91].tolist()) == {0.0, 1.0}


def test_a_part_that_is_missing_is_not_labelled(tmp_path):
    document = official(wholebody_set(0))
    row = next(r for r in document["annotations"] if r["foot_valid"])
    del row["foot_kpts"]
    annotations = load_annotations(write_set(tmp_path, document), WHOLEBODY)
    index = annotations.ann_ids.tolist().index(row["id"])
    assert not annotations.keypoints[index, 17:23].any()
    assert annotations.keypoints[index, 23:].any() == (
        row["face_valid"] or row["lefthand_valid"] or row["righthand_valid"]
    )


def test_a_part_of_a_wrong_length_is_named(tmp_path):
    document = official(wholebody_set(0))
    row = document["annotations"][3]
    row["lefthand_kpts"] = row["lefthand_kpts"][:-3]
    with pytest.raises(UserError, match=rf"'lefthand_kpts' is not a list of 63.*{row['id']}"):
        load_annotations(write_set(tmp_path, document), WHOLEBODY)
