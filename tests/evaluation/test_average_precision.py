"""AP by both backends, and the whole post-processing on the official oracle sets."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from official_sets import SETS, official_arrays, official_experiment

from sdpose.codec import decode
from sdpose.config.schema import COCO
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.evaluation import METRIC_NAMES, score, validation_boxes
from sdpose.evaluation.coco_ap import average_precision, coco_results
from sdpose.evaluation.infer import box_regions
from sdpose.evaluation.nms import rescore, suppress

VAL = "annotations/person_keypoints_val2017.json"
SIGMAS = np.array(COCO.sigmas)
BACKENDS = ["pycocotools", "faster-coco-eval"]


@pytest.fixture(scope="module")
def annotations(coco_4):
    return load_annotations(coco_4 / VAL)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["ap", "nms"])
def test_tables_are_the_official_ones(case, backend, annotations, reference_dir, capfd):
    arrays = np.load(reference_dir / "data.npz")
    _, rows = np.unique(arrays[f"{case}_bbox_id"], return_index=True)
    keypoints, boxes = arrays[f"{case}_preds"][rows], arrays[f"{case}_boxes"][rows]
    image_ids = arrays[f"{case}_image_id"][rows]
    scores = rescore(keypoints[:, :, 2], boxes[:, 5], vis_thr=0.2)
    kept = suppress(
        image_ids, keypoints[:, :, :2], boxes[:, 4], scores, SIGMAS, thr=0.9, soft=False
    )
    results = coco_results(image_ids[kept], keypoints[kept], scores[kept], 1)
    metrics = average_precision(annotations, results, backend)
    expected = json.loads((reference_dir / "data.json").read_text())[case]["pycocotools"]
    assert tuple(metrics) == METRIC_NAMES
    np.testing.assert_allclose(list(metrics.values()), expected, rtol=0, atol=1e-12)
    assert capfd.readouterr().out == ""


def noisy_predictions(annotations, seed):
    """Poses near the truth, duplicates and false alarms, with scores that tie now and then."""
    rng = np.random.default_rng(seed)
    persons = annotations.persons()
    rows = rng.integers(0, len(persons), 3 * len(persons))
    spread = rng.choice([1, 5, 20, 100], (len(rows), 1, 1))
    points = persons.joints[rows] + rng.standard_normal((len(rows), 17, 2)) * spread
    joint_scores = rng.random((len(rows), 17, 1))
    keypoints = np.concatenate([points, joint_scores], axis=2).astype(np.float32)
    scores = rng.integers(0, 20, len(rows)).astype(np.float32) / 20
    return coco_results(persons.image_id[rows], keypoints, scores, 1)


@pytest.mark.parametrize("folder", ["coco-4", "coco-mini"])
def test_backends_agree_to_the_last_digit(folder, request):
    root = request.getfixturevalue(folder.replace("-", "_"))
    annotations = load_annotations(root / VAL)
    for seed in range(5):
        results = noisy_predictions(annotations, seed)
        first, second = (average_precision(annotations, results, backend) for backend in BACKENDS)
        assert first == second
        assert 0 < first["AP"] < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_zero_and_nothing_to_find_is_minus_one(backend, annotations):
    assert set(average_precision(annotations, [], backend).values()) == {0.0}
    nobody = annotations.without_images(annotations.file_names[1:])
    assert len(nobody.persons()) == 1
    assert average_precision(nobody, [], backend)["AP (M)"] == -1


def test_results_are_left_as_they_are(annotations):
    results = noisy_predictions(annotations, 0)
    average_precision(annotations, results)
    assert set(results[0]) == {"image_id", "category_id", "keypoints", "score"}


def test_a_backend_that_is_not_installed_is_named(annotations, monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="fast-eval"):
        average_precision(annotations, [], "faster-coco-eval")


# ------------------------------------------------------------------------------------- oracle


def oracle_heatmaps(arrays):
    """Gaussians (rows, 17, 64, 48) as reference/README.md describes them."""
    x, y = np.arange(48), np.arange(64)
    center, amplitude = arrays["hm_center"], arrays["hm_amp"]
    distance = (x - center[..., 0:1])[..., None, :] ** 2 + (y - center[..., 1:2])[..., :, None] ** 2
    return (amplitude[..., None, None] * np.exp(-distance / 8)).astype(np.float32)


def oracle_keypoints(arrays, centers, sizes):
    heatmaps = torch.from_numpy(oracle_heatmaps(arrays))
    return decode(heatmaps, centers, sizes, post_process="unbiased", kernel=11).numpy()


@pytest.mark.parametrize("name", SETS)
def test_the_oracle_is_decoded_and_suppressed_as_officially(name):
    """Decode, rescoring and NMS of heatmaps made from the truth."""
    arrays, facts = official_arrays(name, "oracle")
    sum_of_all = oracle_heatmaps(arrays).sum(dtype=np.float64)
    assert sum_of_all == pytest.approx(facts["heatmap_sum"], abs=1e-6)
    experiment = official_experiment(name, Path())
    centers, sizes = box_regions(arrays["box_xywh"], experiment.data_cfg, padding=1.25)
    np.testing.assert_array_equal(centers, arrays["center"])
    np.testing.assert_array_equal(sizes, arrays["scale"] * np.float32(200))
    keypoints = oracle_keypoints(arrays, centers, sizes)
    seen = arrays["hm_max"] >= 1e-6
    np.testing.assert_allclose(keypoints[seen], arrays["keypoints"][seen], atol=1e-3)

    scores = rescore(keypoints[:, :, 2], arrays["box_score"], vis_thr=0.2)
    np.testing.assert_allclose(scores, arrays["rescored"], rtol=0, atol=1e-6)
    areas = sizes.prod(axis=1)
    kept = suppress(
        arrays["image_id"], keypoints[:, :, :2], areas, scores, SIGMAS, thr=0.9, soft=False
    )
    # equal scores have no defined order in the official code; only zeros tie here
    expected = [entry["row"] for entry in facts["kept"] if entry["score"] > 0]
    assert [row for row in kept.tolist() if scores[row] > 0] == expected


@pytest.mark.parametrize("name", SETS)
def test_the_oracle_scores_what_it_scored_officially(name, request):
    """From files to AP."""
    root = request.getfixturevalue(SETS[name])
    arrays, facts = official_arrays(name, "oracle")
    experiment = official_experiment(name, root)
    annotations = load_annotations(root / VAL)
    boxes, source = validation_boxes(experiment, annotations)
    assert source == ("ground truth" if name.endswith("_gt") else "detections")
    centers, sizes = box_regions(boxes.boxes_xywh, experiment.data_cfg, padding=1.25)
    keypoints = oracle_keypoints(arrays, centers, sizes)

    result = score(experiment, annotations, boxes, source, keypoints)
    np.testing.assert_allclose(
        list(result.metrics.values()), list(facts["stats_pycocotools"].values()), atol=1e-12
    )
    # equal scores have no defined order in the official code; only zeros tie here
    expected = [entry for entry in facts["kept"] if entry["score"] > 0]
    positive = result.scores > 0
    assert result.box_keys[positive].tolist() == [arrays["key"][e["row"]] for e in expected]
    assert result.image_ids[positive].tolist() == [e["image_id"] for e in expected]
    np.testing.assert_allclose(
        result.scores[positive], [e["score"] for e in expected], rtol=0, atol=1e-6
    )
    again = score(
        experiment.model_copy(
            update={
                "evaluation": experiment.evaluation.model_copy(
                    update={"backend": "faster-coco-eval"}
                )
            }
        ),
        annotations,
        boxes,
        source,
        keypoints,
    )
    assert again.metrics == result.metrics
