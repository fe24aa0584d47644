"""evaluate(): boxes, settings, several processes, workers, hostile files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sdpose.config import dump_experiment, load_experiment
from sdpose.data.coco import load_annotations
from sdpose.errors import UserError
from sdpose.evaluation import METRIC_NAMES, evaluate, format_table, infer, write_results
from sdpose.models import build_model
from sdpose.prepare.dataset import unusable_images

DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def experiment(root, *overrides):
    small = ("data.workers_per_gpu=0", "data.val_dataloader.samples_per_gpu=16", *overrides)
    return load_experiment(Path(__file__).with_name("small.yaml"), (f"data_root={root}", *small))


@pytest.fixture(scope="module")
def model(coco_4):
    torch.manual_seed(3)
    model = build_model(experiment(coco_4).model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def copy_4(coco_4, tmp_path):
    """coco-4, to be changed."""
    root = tmp_path / "coco"
    shutil.copytree(coco_4, root)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    return root


def assert_same(first, second):
    assert first.metrics == second.metrics
    np.testing.assert_array_equal(first.box_keys, second.box_keys)
    np.testing.assert_array_equal(first.keypoints_array, second.keypoints_array)
    np.testing.assert_array_equal(first.scores, second.scores)


# ------------------------------------------------------------------------------------------ boxes


def test_detections_that_are_missing_are_asked_for_by_name(model, coco_mini):
    wanting = experiment(coco_mini, "data_cfg.use_gt_bbox=false")
    with pytest.raises(UserError) as caught:
        evaluate(model, wanting, device="cpu")
    assert str(coco_mini / DETECTIONS) in str(caught.value)
    assert "--use-gt-bbox" in str(caught.value)
    assert "github.com/leoxiaobin" in str(caught.value)


def test_ground_truth_boxes_are_used_and_recorded_when_asked_for(model, copy_4):
    wanting = experiment(copy_4, "data_cfg.use_gt_bbox=false")
    by_detections = evaluate(model, wanting, device="cpu")
    assert by_detections.bbox_source == by_detections.settings["bbox_source"] == "detections"
    assert by_detections.settings["num_boxes"] == 118
    asked = evaluate(model, wanting, device="cpu", use_gt_bbox=True)
    assert asked.bbox_source == asked.settings["bbox_source"] == "ground truth"
    assert asked.settings["num_boxes"] == 12
    (copy_4 / DETECTIONS).unlink()
    fallen_back = evaluate(model, wanting, device="cpu", missing_detections="use_gt_bbox")
    assert fallen_back.bbox_source == "ground truth"
    assert_same(fallen_back, asked)


def test_the_score_threshold_drops_boxes(model, coco_4):
    few = experiment(coco_4, "data_cfg.use_gt_bbox=false", "data_cfg.det_bbox_thr=0.9")
    assert evaluate(model, few, device="cpu").settings["num_boxes"] < 30


def test_no_boxes_at_all_is_ap_zero(model, copy_4):
    rows = json.loads((copy_4 / DETECTIONS).read_text())
    (copy_4 / DETECTIONS).write_text(json.dumps([row | {"score": 0.1} for row in rows]))
    none = experiment(copy_4, "data_cfg.use_gt_bbox=false", "data_cfg.det_bbox_thr=0.5")
    result = evaluate(model, none, device="cpu")
    assert result.metrics["AP"] == 0
    assert result.keypoints == []


# ---------------------------------------------------------------------------------------- results


def test_results_are_what_coco_servers_take(model, coco_4, tmp_path):
    result = evaluate(model, experiment(coco_4, "data_cfg.soft_nms=true"), device="cpu")
    write_results(result, tmp_path / "new/F.json")
    results = json.loads((tmp_path / "new/F.json").read_text())
    assert len(results) == 12
    for row in results:
        assert set(row) == {"image_id", "category_id", "keypoints", "score"}
        assert len(row["keypoints"]) == 51
    metrics = json.loads((tmp_path / "new/F.metrics.json").read_text())
    assert [key for key in metrics if key != "settings"] == list(METRIC_NAMES)
    assert metrics["settings"]["soft_nms"] is True
    assert metrics["settings"]["flip_test"] is True
    assert all(name in format_table(result.metrics) for name in METRIC_NAMES)


def test_the_model_and_the_random_state_stay_as_they_were(model, coco_4):
    model.train()
    state = torch.random.get_rng_state()
    evaluate(model, experiment(coco_4, "data.workers_per_gpu=1"), device="cpu")
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_test_cfg_is_obeyed(model, coco_4):
    plain = experiment(coco_4, "model.test_cfg.flip_test=false", "model.test_cfg.post_process=null")
    unshifted = experiment(coco_4, "model.test_cfg.shift_heatmap=false")
    narrow = experiment(coco_4, "model.test_cfg.modulate_kernel=3")
    tight = experiment(coco_4, "train_pipeline.padding=1.0")
    found = [
        evaluate(model, e, device="cpu").keypoints_array
        for e in (experiment(coco_4), plain, unshifted, narrow, tight)
    ]
    for i, first in enumerate(found):
        for second in found[:i]:
            assert not np.array_equal(first, second)


# ------------------------------------------------------------------------------ sharing the work


def test_workers_change_nothing_and_progress_is_told(model, coco_mini):
    seen = []
    alone = evaluate(
        model, experiment(coco_mini), device="cpu", progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(16, 68), (32, 68), (48, 68), (64, 68), (68, 68)]
    helped = evaluate(model, experiment(coco_mini, "data.workers_per_gpu=2"), device="cpu")
    assert_same(alone, helped)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_are_disjoint_complete_and_of_whole_batches(coco_mini, world_size):
    persons = load_annotations(coco_mini / "annotations/person_keypoints_val2017.json").persons()
    order = np.concatenate(infer.rows_by_image(persons.image_id))
    shares = [infer.share_of(order, 16, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(shares).tolist() == order.tolist()
    assert all(len(share) % 16 == 0 for share in shares[:-1])
    batches = [-(-len(share) // 16) for share in shares]
    assert max(batches) - min(batches) <= 1


def in_processes(tmp_path, world_size, experiments, model):
    """For each of several processes that evaluate together, its outcomes."""
    files = [tmp_path / f"{i}.yaml" for i in range(len(experiments))]
    for file, chosen in zip(files, experiments, strict=True):
        file.write_text(dump_experiment(chosen))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    outs = [tmp_path / f"{rank}.pth" for rank in range(world_size)]
    common = [tmp_path / "rendezvous", tmp_path / "weights.pth"]
    program = [sys.executable, Path(__file__).with_name("evaluate_share.py")]
    processes = [
        subprocess.Popen([*program, str(rank), str(world_size), *common, out, *files])
        for rank, out in enumerate(outs)
    ]
    assert [process.wait(120) for process in processes] == [0] * world_size
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.mark.slow
def test_two_processes_find_what_one_finds_to_the_last_bit(model, coco_mini, copy_4, tmp_path):
    """68 boxes, in batches of 16, do not divide by two; and an error in one process reaches all."""
    chosen = experiment(coco_mini)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = evaluate(model, chosen, device="cpu")
    torch.set_num_threads(threads)
    last = load_annotations(copy_4 / "annotations/person_keypoints_val2017.json").file_names[-1]
    (copy_4 / "val2017" / last).write_bytes(b"")
    broken = experiment(copy_4, "data.val_dataloader.samples_per_gpu=4")
    for outcome, failure in in_processes(tmp_path, 2, [chosen, broken], model):
        assert outcome["metrics"] == alone.metrics
        for key in ("box_keys", "keypoints_array", "scores"):
            np.testing.assert_array_equal(outcome[key].numpy(), getattr(alone, key))
        assert f"{last}: empty file" in failure["error"]


# ------------------------------------------------------------------------------------ bad content


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(model, copy_4, workers):
    path = copy_4 / "val2017/000000000785.jpg"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="000000000785") as caught:
        evaluate(model, experiment(copy_4, f"data.workers_per_gpu={workers}"), device="cpu")
    assert "on_corrupt=skip" in str(caught.value)


def test_skipped_images_do_not_count(model, copy_4, monkeypatch, tmp_path):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    (copy_4 / "val2017/000000000785.jpg").write_bytes(b"")
    changed = experiment(copy_4, "data.on_corrupt=skip")
    skipped = unusable_images(changed, "val")
    skipping = evaluate(model, changed, device="cpu", skip_images=skipped)
    assert skipping.settings["num_images_left_out"] == 1
    assert skipping.settings["num_images"] == 3
    assert 785 not in skipping.image_ids
    assert len(skipping.image_ids) == 11


def test_a_diverged_model_is_said_to_be_one(coco_4):
    model = build_model(experiment(coco_4).model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        evaluate(model, experiment(coco_4), device="cpu")


def test_odd_images_and_boxes_are_evaluated(model, tmp_path):
    """A picture of one pixel, a very long one, boxes far outside and tiny ones."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "person_detection_results").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (10, 20_000, 3), dtype=np.uint8)
    pictures = {"dot.png": noise[:1, :1], "strip.png": noise, "plain.jpg": noise[:, :200]}
    images, people = [], []
    for number, (name, picture) in enumerate(pictures.items(), start=1):
        cv2.imwrite(str(root / "val2017" / name), picture)
        height, width = picture.shape[:2]
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        people.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": [width / 2, height / 2, 2] * 17,
            }
        )
    document = {"images": images, "annotations": people, "categories": [PERSON]}
    path = root / "annotations/person_keypoints_val2017.json"
    path.write_text(json.dumps(document))
    boxes = [[0, 0, 1, 1], [-1e6, 5, 10, 10], [5, 5, 1e-3, 1e-3], [0, 0, 3e4, 1e7], [9, 9, 0, 9]]
    rows = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": 0.5}
        for i in (1, 2, 3)
        for box in boxes
    ]
    (root / DETECTIONS).write_text(json.dumps(rows))
    for overrides in (["data_cfg.use_gt_bbox=true"], ["data_cfg.use_gt_bbox=false"]):
        result = evaluate(model, experiment(root, *overrides), device="cpu")
        assert np.isfinite(result.keypoints_array).all()
        assert 0 <= result.metrics["AP"] <= 1
    assert result.settings["num_empty_detections"] == 3


PERSON = {"id": 1, "name": "person"}
