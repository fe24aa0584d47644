"""The official evaluation with the model in it: crops, flip test, heatmaps and keypoints.

Weights are made by formula (reference/README.md): `fan` for the heatmaps, `fans`, whose
heatmaps are smooth, for the keypoints. SDPOSE_ALL_BOXES=1 takes all 198 boxes of each.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from official_sets import SETS, official_arrays, official_experiment
from reference_weights import official_state, reference_table, smooth_fans

from sdpose.codec import decode
from sdpose.config import load_experiment
from sdpose.config.schema import COCO
from sdpose.data.coco import Boxes, load_annotations
from sdpose.evaluation import evaluate, infer, validation_boxes
from sdpose.models import build_model
from sdpose.models.names import convert_official, to_official

pytestmark = pytest.mark.slow

ALL_BOXES = os.environ.get("SDPOSE_ALL_BOXES") == "1"
EVERY = {"shared_coco4_gt": 3, "shared_coco4_det": 12, "shared_cocomini_gt": 8}


@pytest.fixture(scope="session")
def official_models(reference_dir):
    """S-V1 with the weights `fan` and `fans`."""
    config = load_experiment("sdpose_s_v1").model
    initial = to_official(build_model(config).state_dict())
    fan = official_state(reference_table(reference_dir, "sdpose_s_v1"), "fan", initial)
    models = {}
    for kind, state in (("fan", fan), ("fans", smooth_fans(reference_dir, fan))):
        models[kind] = build_model(config).eval()
        models[kind].load_state_dict(convert_official(state))
    return models


def crops_and_heatmaps(experiment, model, rows):
    """uint8 crops, flip-averaged heatmaps, centres and sizes of some boxes."""
    annotations = load_annotations(f"{experiment.data_root}/{experiment.data.val.ann_file}")
    boxes, _ = validation_boxes(experiment, annotations)
    some = Boxes(*(getattr(boxes, field)[rows] for field in Boxes.__dataclass_fields__))
    centers, sizes = infer.box_regions(some.boxes_xywh, experiment.data_cfg, padding=1.25)
    groups = infer.rows_by_image(some.image_id)
    folder = Path(experiment.data_root) / experiment.data.val.img_prefix
    paths = [folder / annotations.file_names[some.image_index[group[0]]] for group in groups]
    images = [(p, centers[group], sizes[group]) for p, group in zip(paths, groups, strict=True)]
    items = infer.ImageCrops(images, experiment.data_cfg.image_size)
    crops = torch.cat(list(infer.crop_batches(items, batch_size=32, num_workers=0)))
    with torch.inference_mode():
        heatmaps = infer.predict_heatmaps(model, crops, experiment.model.test_cfg, COCO.flip_index)
    back = np.argsort(np.concatenate(groups))
    return crops[back].numpy(), heatmaps[back], centers, sizes


@pytest.mark.parametrize("kind", ["fan", "fans"])
@pytest.mark.parametrize("name", SETS)
def test_crops_heatmaps_and_keypoints(name, kind, request, official_models):
    experiment = official_experiment(name, request.getfixturevalue(SETS[name]))
    expected, _ = official_arrays(name, kind)
    rows = slice(None, None, 1 if ALL_BOXES else EVERY[name])
    crops, heatmaps, centers, sizes = crops_and_heatmaps(experiment, official_models[kind], rows)

    flat_crops = crops.reshape(len(crops), -1)
    np.testing.assert_array_equal(
        flat_crops[:, expected["crop_idx"]], expected["crop_samples"][rows]
    )
    np.testing.assert_array_equal(crops.sum((1, 2), dtype=np.int64), expected["crop_sum_rgb"][rows])
    samples = heatmaps.numpy().reshape(len(crops), -1)[:, expected["hm_idx"]]
    np.testing.assert_allclose(samples, expected["hm_samples"][rows], rtol=0, atol=1e-4)

    keypoints = decode(heatmaps, centers, sizes, post_process="unbiased", kernel=11).numpy()
    np.testing.assert_allclose(keypoints[..., 2], expected["keypoints"][rows, :, 2], atol=1e-4)
    if kind == "fan":
        return  # one pixel is the maximum of nearly all its joints; its DARK steps reach far
    distance = np.linalg.norm(keypoints[..., :2] - expected["keypoints"][rows, :, :2], axis=-1)
    crop_pixels = distance * 192 / sizes[:, :1]
    if "move_noise" in expected:
        robust = (expected["move_noise"] < 1) & (expected["move_exactwarp"] < 1)
        crop_pixels = crop_pixels[robust[rows]]
    assert (crop_pixels > 1).mean() <= 0.02


def test_evaluate_from_files_to_results(official_models, coco_4):
    """Through the front door, with workers: the official list of results, in the official order."""
    expected, facts = official_arrays("shared_coco4_gt", "fans")
    experiment = official_experiment("shared_coco4_gt", coco_4)
    experiment = experiment.model_copy(
        update={"data": experiment.data.model_copy(update={"workers_per_gpu": 2})}
    )
    result = evaluate(official_models["fans"], experiment, device="cpu")
    assert result.box_keys.tolist() == [expected["key"][e["row"]] for e in facts["kept"]]
    np.testing.assert_allclose(result.scores, [e["score"] for e in facts["kept"]], atol=1e-4)
    assert list(result.metrics.values()) == list(facts["stats_pycocotools"].values())
