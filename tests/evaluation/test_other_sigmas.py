"""AP with the sigmas of other skeletons, against an independent evaluator (hotcoco)."""

from __future__ import annotations

import contextlib
import io
import json

import hotcoco
import numpy as np
import pytest
from pose_sets import CROWDPOSE, annotation_set, found_poses, write_set

from sdpose.config import parse_experiment
from sdpose.config.schema import COCO, Skeleton
from sdpose.data.coco import load_annotations
from sdpose.evaluation import format_table, score, validation_boxes, write_results
from sdpose.evaluation.coco_ap import average_precision
from sdpose.evaluation.metrics import metrics_of
from sdpose.metric_names import METRIC_NAMES
from sdpose.report.keypoint_errors import match

# It warns that AP with other sigmas is not COCO's.
pytestmark = pytest.mark.filterwarnings("ignore:hotcoco")

BACKENDS = ["pycocotools", "faster-coco-eval"]
HEAD = Skeleton(
    keypoints=("nose", "left_ear", "right_ear", "chin", "crown"),
    flip_pairs=(("left_ear", "right_ear"),),
    sigmas=(0.026, 0.035, 0.035, 0.05, 0.06),
)
HAND = Skeleton(keypoints=tuple(f"hand_{i}" for i in range(21)), flip_pairs=(), sigmas=(0.05,) * 21)


def independent(document, results, sigmas):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = hotcoco.COCO(document)
        evaluator = hotcoco.COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = list(sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "skeleton", [HEAD, HAND, CROWDPOSE, COCO], ids=["head", "hand", "crowdpose", "coco"]
)
def test_ap_is_that_of_an_independent_evaluator(skeleton, backend, tmp_path):
    for seed in range(4):
        document = annotation_set(skeleton, seed)
        results = found_poses(document, seed)
        annotations = load_annotations(write_set(tmp_path, document), skeleton)
        metrics = metrics_of(annotations, results, backend)
        assert tuple(metrics) == METRIC_NAMES
        assert 0.05 < metrics["AP"] < 0.95
        expected = independent(document, results, skeleton.sigmas)
        np.testing.assert_allclose(list(metrics.values()), expected, rtol=0, atol=1e-9)


def test_sigmas_change_the_ap(tmp_path):
    document = annotation_set(HEAD, 0)
    results = found_poses(document, 0)
    strict = HEAD.model_copy(update={"sigmas": (0.01,) * 5})
    path = write_set(tmp_path, document)
    loose, tight = (
        average_precision(load_annotations(path, skeleton), results)["AP"]
        for skeleton in (HEAD, strict)
    )
    assert tight < loose - 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_set_whose_ids_begin_at_zero_scores_the_same(backend, tmp_path):
    """Both backends take id 0 for "not matched"."""
    document = annotation_set(HEAD, 1)
    perfect = [
        {key: row[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
        for row in document["annotations"]
        if row["num_keypoints"] and not row["iscrowd"]
    ]
    from_one = load_annotations(write_set(tmp_path, document), HEAD)
    for row in document["annotations"]:
        row["id"] -= 1
    from_zero = load_annotations(write_set(tmp_path, document), HEAD)
    assert from_zero.ann_ids.min() == 0
    assert average_precision(from_one, perfect, backend)["AP"] == pytest.approx(1)
    assert average_precision(from_zero, perfect, backend) == average_precision(
        from_one, perfect, backend
    )
    assert match(from_zero, perfect).persons.tolist() == match(from_one, perfect).persons.tolist()


def test_a_result_of_another_skeleton_says_so(tmp_path):
    """From decoded keypoints to files: scores, suppression, metrics, settings."""
    document = annotation_set(HEAD, 3)
    write_set(tmp_path, document)
    experiment = parse_experiment(
        {
            "exp_name": "head",
            "data_root": str(tmp_path),
            "skeleton": HEAD.model_dump(mode="json"),
            "data": {"val": {"ann_file": "annotations.json"}},
            "data_cfg": {"use_gt_bbox": True},
        }
    )
    annotations = load_annotations(tmp_path / "annotations.json", experiment.keypoints)
    boxes, source = validation_boxes(experiment, annotations)
    noise = np.random.default_rng(0).normal(0, 3, (len(boxes), 5, 2))
    keypoints = np.concatenate([boxes.joints + noise, np.full((len(boxes), 5, 1), 0.9)], axis=2)
    result = score(experiment, annotations, boxes, source, keypoints.astype(np.float32))
    assert list(result.metrics) == [*METRIC_NAMES, "PCK"]
    assert 0.9 < result.metrics["PCK"] <= 1
    assert result.settings["sigmas"] == list(HEAD.sigmas)
    assert result.settings["keypoints"] == list(HEAD.keypoints)
    write_results(result, tmp_path / "results.json")
    written = json.loads((tmp_path / "results.metrics.json").read_text())
    assert written["PCK"] == result.metrics["PCK"]
    again = average_precision(annotations, json.loads((tmp_path / "results.json").read_text()))
    assert again["AP"] == result.metrics["AP"]
    table = format_table(result.metrics).splitlines()
    assert len(table) == 4
    assert table[2].split() == ["PCK"]
    assert max(map(len, table)) == 78
