"""Evaluation from image files to AP: images and boxes a second, and where the time goes.

    python benchmarks/evaluate.py [--exp sdpose_s_v1 ...] [--batch 32 256 ...] [--data-root DIR]
        [--set KEY=VALUE ...] [--json out.json]

Without --data-root, on a synthetic dataset. Without the experiment's detection file there, boxes
are made: 21 an image, as COCO val2017 has detections, ground truth moved a little. Weights are
random. "keypoints" is all from files to joints, flip test included; "without model" the same with a
model that does nothing: reading, warping, decoding. "score": OKS-NMS and AP. Projected: COCO
val2017's 104,125 detections at this rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, peak_memory_mib, reset_peak_memory, show
from torch import Tensor, nn

from sdpose.config import Experiment, load_experiment
from sdpose.data.coco import load_annotations
from sdpose.errors import user_errors
from sdpose.evaluation import score, validation_boxes
from sdpose.evaluation.infer import predict_keypoints
from sdpose.models import build_model
from sdpose.tools.synthetic.dataset import write_synthetic_coco

COCO_BOXES, BOXES_PER_IMAGE = 104_125, 21


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--exp", nargs="+", default=["sdpose_s_v1"], help="names or YAML files")
    parser.add_argument("--batch", nargs="+", type=int, default=[32], help="boxes")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = args.data_root or Path(folder, "coco")
        if args.data_root is None:
            write_synthetic_coco(root, num_train=1, num_val=20, seed=0)
        for name, batch in itertools.product(args.exp, args.batch):
            changes = [
                f"data.val_dataloader.samples_per_gpu={batch}",
                f"data.workers_per_gpu={max(1, min(15, (os.cpu_count() or 1) - 1))}",
                *args.set,
            ]
            experiment = load_experiment(name, changes, data_root=str(root.absolute()))
            if not (root / experiment.data_cfg.bbox_file).exists():
                boxes = f"data_cfg.bbox_file={_detections(experiment, Path(folder))}"
                experiment = load_experiment(
                    name, [*changes, boxes], data_root=str(root.absolute())
                )
            rows.append({"model": name, "batch": batch, **_measure(experiment, device)})
    report = {"rows": rows, "data_root": str(args.data_root), "machine": machine()}
    show("Evaluation", rows, report, args.json)


def _measure(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    root, val = Path(experiment.data_root), experiment.data.val
    annotations = load_annotations(root / val.ann_file)
    boxes, source = validation_boxes(experiment, annotations, use_gt_bbox=False)

    def keypoints(model: nn.Module) -> tuple[float, Any]:
        before = time.perf_counter()
        rows, keypoints_NK3 = predict_keypoints(
            model.to(device),
            boxes,
            [root / val.img_prefix / name for name in annotations.file_names],
            skeleton=experiment.keypoints,
            data_cfg=experiment.data_cfg,
            test_cfg=experiment.model.test_cfg,
            padding=experiment.train_pipeline.padding,
            batch_size=experiment.data.val_dataloader.samples_per_gpu,
            num_workers=experiment.data.workers_per_gpu,
            device=device,
        )
        return time.perf_counter() - before, keypoints_NK3[np.argsort(rows)]

    nothing = _Nothing(experiment.data_cfg.heatmap_size)
    keypoints(nothing)  # warms up: the page cache
    without_model, _ = keypoints(nothing)
    torch.manual_seed(0)
    reset_peak_memory(device)
    seconds, keypoints_NK3 = keypoints(build_model(experiment.model))
    before = time.perf_counter()
    score(experiment, annotations, boxes, source, keypoints_NK3)
    scoring = time.perf_counter() - before
    num_images = len(np.unique(boxes.image_id))
    return {
        "images": num_images,
        "boxes": len(boxes),
        "images/s": num_images / (seconds + scoring),
        "boxes/s": len(boxes) / (seconds + scoring),
        "keypoints s": seconds,
        "without model s": without_model,
        "score s": scoring,
        "memory MiB": peak_memory_mib(device),
        "COCO projected s": COCO_BOXES / len(boxes) * (seconds + scoring),
    }


class _Nothing(nn.Module):
    """Answers with one bump for every joint."""

    def __init__(self, heatmap_size_wh: tuple[int, int]) -> None:
        super().__init__()
        width, height = heatmap_size_wh
        x_W, y_H = torch.arange(width) - width / 2, torch.arange(height) - height / 2
        distance_HW = y_H[:, None] ** 2 + x_W**2
        self.heatmaps_1KHW: Tensor
        self.register_buffer("heatmaps_1KHW", torch.exp(-distance_HW / 8).expand(1, 17, -1, -1))

    def predict(self, images_N3HW: Tensor) -> Tensor:
        return self.heatmaps_1KHW.repeat(len(images_N3HW), 1, 1, 1)


def _detections(experiment: Experiment, folder: Path) -> Path:
    path = Path(experiment.data_root) / experiment.data.val.ann_file
    persons = load_annotations(path).persons()
    rng = np.random.default_rng(0)
    found = []
    for image_id in np.unique(persons.image_id):
        boxes_P4 = persons.boxes_xywh[persons.image_id == image_id]
        picked_N4 = boxes_P4[rng.integers(0, len(boxes_P4), BOXES_PER_IMAGE)]
        moved_N4 = picked_N4 * rng.uniform(0.8, 1.2, picked_N4.shape)
        for box, box_score in zip(moved_N4.tolist(), rng.random(len(moved_N4)), strict=True):
            row = {"image_id": int(image_id), "category_id": 1, "bbox": box}
            found.append(row | {"score": float(box_score)})
    target = folder / "detections.json"
    target.write_text(json.dumps(found))
    return target


if __name__ == "__main__":
    with user_errors():
        main()
