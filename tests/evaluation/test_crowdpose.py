"""CrowdPose's evaluation, against xthotcoco (of xtcocotools, which mmpose 0.29 evaluates with)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import xthotcoco
from pose_sets import CROWDPOSE, annotation_set, found_poses, write_set
from test_other_sigmas import independent

from sdpose.data.coco import load_annotations
from sdpose.data.person_rules import lost_persons
from sdpose.errors import UserError
from sdpose.evaluation.metrics import metric_settings, metrics_of
from sdpose.metric_names import OF_CROWDPOSE

# It warns that AP with other sigmas is not COCO's.
pytestmark = pytest.mark.filterwarnings("ignore:hotcoco")

BACKENDS = ["pycocotools", "faster-coco-eval"]


def crowd_set(seed, **changes):
    """As CrowdPose's files are: no `area`, and num_keypoints counts the visible joints alone."""
    document = annotation_set(CROWDPOSE, seed, crowd_index=True, **changes)
    for row in document["annotations"]:
        del row["area"]
        if row["id"] % 5 == 0:
            row["keypoints"][2::3] = [min(v, 1) for v in row["keypoints"][2::3]]
        row["num_keypoints"] = row["keypoints"][2::3].count(2)
    return document


def as_crowdposetools(document, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = xthotcoco.COCO(ann_data=document)
        evaluator = xthotcoco.COCOeval(
            truth, truth.loadRes(results), "keypoints_crowd", CROWDPOSE.sigmas, use_area=False
        )
        return evaluator.run()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_metrics_are_those_of_an_independent_evaluation(backend, tmp_path):
    for seed in range(4):
        document = crowd_set(seed)
        results = found_poses(document, seed)
        annotations = load_annotations(write_set(tmp_path, document), CROWDPOSE)
        metrics = metrics_of(annotations, results, backend)
        assert tuple(metrics) == OF_CROWDPOSE
        assert len(set(metrics.values())) == len(metrics)
        expected = as_crowdposetools(document, results)
        ours = list(metrics.values())
        np.testing.assert_allclose(ours[:6], expected[:6], rtol=0, atol=1e-9)
        # The official evaluation rounds these three.
        np.testing.assert_array_equal(np.round(ours[6:], 4), expected[6:])


def test_a_level_is_the_evaluation_of_its_images_alone(tmp_path):
    """Without the official rounding."""
    document = crowd_set(0)
    results = found_poses(document, 0)
    metrics = metrics_of(load_annotations(write_set(tmp_path, document), CROWDPOSE), results)
    for name, low, high in (("AP (E)", 0, 0.2), ("AP (M)", 0.2, 0.8), ("AP (H)", 0.8, 2)):
        ids = {i["id"] for i in document["images"] if low <= i["crowdIndex"] < high}
        rows = [
            row | {"area": row["bbox"][2] * row["bbox"][3] * 0.53}
            for row in document["annotations"]
            if row["image_id"] in ids
        ]
        alone = document | {
            "images": [i for i in document["images"] if i["id"] in ids],
            "annotations": rows,
        }
        here = [r for r in results if r["image_id"] in ids]
        assert metrics[name] == pytest.approx(
            independent(alone, here, CROWDPOSE.sigmas)[0], rel=0, abs=1e-9
        )


def test_a_stated_area_is_not_used(tmp_path):
    """mmpose evaluates with use_area=False."""
    document = crowd_set(2)
    results = found_poses(document, 2)
    without = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    assert not any("area" in note for note in without.notes)
    for row in document["annotations"]:
        row["area"] = 10.0
    stated = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    assert metrics_of(stated, results) == metrics_of(without, results)


def test_persons_with_hidden_joints_alone_are_left_out_without_a_warning(tmp_path):
    """As mmpose does by num_keypoints: nothing is wrong with the file."""
    document = crowd_set(0)
    annotations = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    counts = annotations.left_out()
    assert counts["whose labelled joints are all hidden"] > 3
    assert not lost_persons(counts, 1)


def test_a_level_without_images_is_minus_one(tmp_path):
    document = crowd_set(0)
    for image in document["images"]:
        image["crowdIndex"] = min(image["crowdIndex"], 0.5)
    annotations = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    metrics = metrics_of(annotations, found_poses(document, 0))
    assert metrics["AP (H)"] == -1
    assert metrics["AP (E)"] > 0


def test_the_settings_tell_the_rules(tmp_path):
    document = crowd_set(0)
    annotations = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    settings = metric_settings(annotations, {})
    assert settings["rules"] == "CrowdPose"
    assert settings["sigmas"] == list(CROWDPOSE.sigmas)
    for image in document["images"]:
        del image["crowdIndex"]
    plain = load_annotations(write_set(tmp_path, document), CROWDPOSE)
    assert plain.crowd_index is None
    assert "rules" not in metric_settings(plain, {})


@pytest.mark.parametrize("value", [None, "high", float("nan"), [0.1]])
def test_a_crowd_index_that_is_no_number_is_named(value, tmp_path):
    """Some images without one, too: their level would be unknown."""
    document = crowd_set(0)
    bad = document["images"][4]
    if value is None:
        del bad["crowdIndex"]
    else:
        bad["crowdIndex"] = value
    with pytest.raises(UserError, match=rf"crowdIndex[\s\S]*image {bad['id']}"):
        load_annotations(write_set(tmp_path, document), CROWDPOSE)
