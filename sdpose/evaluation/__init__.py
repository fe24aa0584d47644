"""Evaluate a model on the validation set of an experiment: AP, and PCK beside it.

Boxes, crops, flip test, decoding, scores and suppression are those of mmpose 0.29's
`TopDownCocoDataset.evaluate` with the official SDPose configurations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from sdpose.config import Experiment
from sdpose.data.coco import Boxes, CocoAnnotations, load_annotations
from sdpose.data.detections import Detections, load_detections
from sdpose.errors import UserError
from sdpose.evaluation.coco_ap import coco_results
from sdpose.evaluation.infer import box_regions, predict_keypoints
from sdpose.evaluation.metrics import metric_settings, metrics_of, pck_metrics
from sdpose.evaluation.nms import rescore, suppress
from sdpose.metric_names import METRIC_NAMES

__all__ = ["METRIC_NAMES", "EvaluationResult", "evaluate", "format_table", "write_results"]

BoxSource = Literal["detections", "ground truth"]


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics, and the poses after suppression: one row each, in the order of the results."""

    metrics: dict[str, float]  # see `metrics`, 0..1; -1 without ground truth to find
    settings: dict[str, Any]  # everything but the weights that affects the metrics
    bbox_source: BoxSource
    category_id: int
    image_ids: NDArray[np.int64]  # [N]
    box_keys: NDArray[np.int64]  # [N], annotation id, or index in the detection file
    keypoints_array: NDArray[np.float32]  # [N,K,3], x, y in image pixels, score
    scores: NDArray[np.float32]  # [N]

    @cached_property
    def keypoints(self) -> list[dict[str, Any]]:
        """The poses as COCO keypoint results: image_id, category_id, keypoints, score."""
        return coco_results(self.image_ids, self.keypoints_array, self.scores, self.category_id)


def evaluate(
    model: nn.Module,
    experiment: Experiment,
    *,
    device: torch.device | str,
    skip_images: frozenset[str] = frozenset(),
    use_gt_bbox: bool | None = None,
    missing_detections: Literal["fail", "use_gt_bbox"] = "fail",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate a model on the validation set of an experiment.

    Under torch.distributed every process calls this, evaluates a share, and gets the same result.

    Args:
        model: on `device`.
        skip_images: file names of images to skip, see `prepare.dataset.unusable_images`.
        use_gt_bbox: overrides data_cfg.use_gt_bbox.
        missing_detections: what to do if the experiment uses detections and their file is missing.
        progress: called with (boxes done, boxes) of this process's share.
    Raises:
        UserError: files are missing or unusable; raised in every process.
    """
    annotations = load_annotations(
        Path(experiment.data_root) / experiment.data.val.ann_file, experiment.keypoints
    ).without_images(skip_images)
    boxes, source = validation_boxes(experiment, annotations, use_gt_bbox, missing_detections)
    image_folder = Path(experiment.data_root) / experiment.data.val.img_prefix
    distributed = dist.is_available() and dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    share: Any  # (rows, keypoints), or the error of this process
    try:
        share = predict_keypoints(
            model,
            boxes,
            [image_folder / name for name in annotations.file_names],
            skeleton=experiment.keypoints,
            data_cfg=experiment.data_cfg,
            test_cfg=experiment.model.test_cfg,
            padding=experiment.train_pipeline.padding,
            batch_size=experiment.data.val_dataloader.samples_per_gpu,
            num_workers=experiment.data.workers_per_gpu,
            device=torch.device(device),
            share=(rank, world_size),
            progress=progress,
        )
    except UserError as error:
        share = error
    shares = [share]
    if distributed:
        shares = [None] * world_size
        dist.gather_object(share, shares if rank == 0 else None)
    outcome: list[Any] = [None]  # the result, or an error
    if rank == 0:
        try:
            keypoints_NK3 = _in_order(shares, len(boxes))
            outcome = [
                score(experiment, annotations, boxes, source, keypoints_NK3, len(skip_images))
            ]
        except UserError as error:
            outcome = [error]
    if distributed:
        dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]


def score(
    experiment: Experiment,
    annotations: CocoAnnotations,
    boxes: Boxes,
    source: BoxSource,
    keypoints_NK3: NDArray[np.float32],
    num_images_left_out: int = 0,
) -> EvaluationResult:
    """Compute the result from decoded keypoints: scores, suppression, AP and PCK.

    Args:
        annotations: the ground truth, without skipped images.
        source: where the boxes are from.
        keypoints_NK3: one row per box: x, y in image pixels, score.
        num_images_left_out: number of skipped images, for the result's settings.
    """
    cfg = experiment.data_cfg
    scores_N = rescore(keypoints_NK3[:, :, 2], boxes.box_score, cfg.vis_thr)
    _, sizes_N2 = box_regions(boxes.boxes_xywh, cfg, experiment.train_pipeline.padding)
    kept = suppress(
        boxes.image_id,
        keypoints_NK3[:, :, :2],
        sizes_N2.prod(axis=1),
        scores_N,
        np.array(experiment.keypoints.sigmas),
        thr=cfg.oks_thr,
        soft=cfg.soft_nms,
    )
    category_id = annotations.person_category["id"]
    results = coco_results(boxes.image_id[kept], keypoints_NK3[kept], scores_N[kept], category_id)
    metrics = metrics_of(annotations, results, experiment.evaluation.backend)
    metrics |= pck_metrics(annotations, boxes, keypoints_NK3)
    return EvaluationResult(
        metrics=metrics,
        settings={
            **_settings(experiment, annotations, boxes, source),
            "num_images_left_out": num_images_left_out,
            **metric_settings(annotations, metrics),
        },
        bbox_source=source,
        category_id=category_id,
        image_ids=boxes.image_id[kept],
        box_keys=boxes.key[kept],
        keypoints_array=keypoints_NK3[kept],
        scores=scores_N[kept],
    )


def validation_boxes(
    experiment: Experiment,
    annotations: CocoAnnotations,
    use_gt_bbox: bool | None = None,
    missing_detections: Literal["fail", "use_gt_bbox"] = "fail",
) -> tuple[Boxes, BoxSource]:
    """Load the boxes to evaluate; arguments as in `evaluate`.

    Returns:
        The boxes and where they are from.
    Raises:
        UserError: the detections are missing or unusable, or no person has keypoints.
    """
    cfg = experiment.data_cfg
    path = Path(experiment.data_root) / cfg.bbox_file
    wanted = "gt" if (cfg.use_gt_bbox if use_gt_bbox is None else use_gt_bbox) else "detections"
    if wanted == "detections" and not path.exists():
        if missing_detections == "fail":
            raise UserError(_missing_detections(experiment, path))
        wanted = "gt"
    if wanted == "detections":
        return load_detections(path, annotations, cfg.det_bbox_thr), "detections"
    persons = annotations.persons()
    if len(persons) == 0:
        raise UserError(f"{annotations.path}: no person with keypoints to evaluate on")
    return persons, "ground truth"


def write_results(result: EvaluationResult, path: str | Path) -> None:
    """Write `path` (F.json), COCO keypoint results, and F.metrics.json: metrics, settings."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.keypoints), encoding="utf-8")
    metrics = {**result.metrics, "settings": result.settings}
    path.with_suffix(".metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")


def format_table(metrics: dict[str, float]) -> str:
    """Format metrics as aligned pairs of lines, names above values, ten metrics a pair.

    >>> print(format_table({"AP": 0.7234, "AR (left hand)": 0.9}))
        AP  AR (left hand)
    0.7234          0.9000
    """
    names, lines = list(metrics), []
    for start in range(0, len(names), 10):
        ten = names[start : start + 10]
        widths = [max(6, len(name)) for name in ten]
        for cells in (ten, [f"{metrics[name]:.4f}" for name in ten]):
            lines.append(
                "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            )
    return "\n".join(lines)


def _in_order(shares: list[Any], num_boxes: int) -> NDArray[np.float32]:
    for share in shares:
        if isinstance(share, UserError):
            raise share
    rows = np.concatenate([rows for rows, _ in shares])
    keypoints = np.concatenate([keypoints for _, keypoints in shares])
    assert (np.sort(rows) == np.arange(num_boxes)).all(), "a box was lost or counted twice"
    return keypoints[np.argsort(rows)]


def _settings(
    experiment: Experiment, annotations: CocoAnnotations, boxes: Boxes, source: BoxSource
) -> dict[str, Any]:
    cfg = experiment.data_cfg
    settings: dict[str, Any] = {
        "metric": experiment.evaluation.metric,
        "bbox_source": source,
        "ann_file": experiment.data.val.ann_file,
        "num_images": len(annotations.file_names),
        "num_boxes": len(boxes),
    }
    if isinstance(boxes, Detections):
        settings |= {
            "bbox_file": cfg.bbox_file,
            "det_bbox_thr": cfg.det_bbox_thr,
            "num_detections_of_other_images": boxes.num_other_images,
            "num_empty_detections": boxes.num_empty,
        }
    return settings | {
        "image_size": list(cfg.image_size),
        "heatmap_size": list(cfg.heatmap_size),
        "padding": experiment.train_pipeline.padding,
        **experiment.model.test_cfg.model_dump(),
        "vis_thr": cfg.vis_thr,
        "oks_thr": cfg.oks_thr,
        "soft_nms": cfg.soft_nms,
        "backend": experiment.evaluation.backend,
    }


def _missing_detections(experiment: Experiment, path: Path) -> str:
    return (
        f"detection file not found: {path.absolute()}\n"
        f"  data_cfg.bbox_file is '{experiment.data_cfg.bbox_file}', looked up in data_root "
        f"'{experiment.data_root}'. The published numbers use\n"
        "  COCO_val2017_detections_AP_H_56_person.json, which the authors of Simple Baselines and "
        "HRNet provide: see 'Data preparation' in\n"
        "  https://github.com/leoxiaobin/deep-high-resolution-net.pytorch (folder "
        "person_detection_results).\n"
        "  Put it there, or evaluate on ground-truth boxes: --use-gt-bbox, or "
        "--set data_cfg.use_gt_bbox=true (the results say so)."
    )
