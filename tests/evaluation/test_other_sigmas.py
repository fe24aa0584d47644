"""AP with the sigmas of other skeletons, against an independent evaluator (hotcoco)."""

from __future__ import annotations

import contextlib
import io

import hotcoco
import numpy as np
import pytest
from pose_sets import CROWDPOSE, annotation_set, found_poses, write_set

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.coco import load_annotations
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
HAND = Skeleton(keypoints=tuple(f"hand_{i}" for i in range(21)), sigmas=(0.05,) * 21)


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
