"""The metrics of a dataset: COCO's, or those of the evaluation that its field uses.

The rules follow from the annotations, so that an experiment names none:

- images with `crowdIndex`: CrowdPose's (`crowdpose_metrics`);
- COCO-WholeBody's 133 keypoints: COCO's ten of the whole, AP and AR of its parts;
- every other skeleton: COCO's ten with the skeleton's sigmas.

Every skeleton but COCO's also gets PCK, and PCKh where persons have head boxes: see `pck`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sdpose.data.coco import Boxes, CocoAnnotations, Persons
from sdpose.data.head_sizes import HEAD_KEYS
from sdpose.data.wholebody import PARTS, Part, is_wholebody
from sdpose.evaluation.coco_ap import average_precision
from sdpose.evaluation.pck import PCK_THR, PCKH_THR, pck, pckh
from sdpose.metric_names import OF_CROWDPOSE

# Upper limits of the crowd index, exclusive. The paper (Li et al., CVPR 2019, section 5) says 0.1
# for "easy"; the official evaluation and all others (xtcocotools of mmpose, faster-coco-eval) split
# at 0.2: `get_type_result(first=0.2, second=0.8)`, crowdposetools/cocoeval.py.
CROWD_LEVELS = {"AP (E)": 0.2, "AP (M)": 0.8, "AP (H)": np.inf}


def metrics_of(
    annotations: CocoAnnotations,
    results: list[dict[str, Any]],
    backend: str = "pycocotools",
) -> dict[str, float]:
    """Compute AP and AR by the rules of the dataset.

    Args:
        results: COCO keypoint results after suppression; not modified.
        backend: "pycocotools" or "faster-coco-eval".
    Returns:
        By name, 0..1; -1 without ground truth to find. Of COCO's 17 keypoints: METRIC_NAMES.
    Raises:
        UserError: the backend is not installed.
    """
    if annotations.crowd_index is not None:
        return crowdpose_metrics(annotations, results, backend)
    metrics = average_precision(annotations, results, backend)
    if is_wholebody(annotations.skeleton):
        for part in PARTS:
            of_part = average_precision(*only(part, annotations, results), backend)
            metrics |= {f"{name} ({part.name})": of_part[name] for name in ("AP", "AR")}
    return metrics


def crowdpose_metrics(
    annotations: CocoAnnotations,
    results: list[dict[str, Any]],
    backend: str = "pycocotools",
) -> dict[str, float]:
    """Compute CrowdPose's nine metrics: OF_CROWDPOSE; arguments as in `metrics_of`.

    As in the official evaluation, the area of a person is 0.53 x width x height of the box (see
    `CocoAnnotations.areas`), and AP (E), (M), (H) are those of the images of a crowd level alone.
    Deviation: the official evaluation rounds these three to four digits.

    Source: crowdposetools/cocoeval.py of https://github.com/Jeff-sjtu/CrowdPose; mmpose 0.29
    `TopDownCrowdPoseDataset` with xtcocotools' `keypoints_crowd`.
    """
    metrics = average_precision(annotations, results, backend)
    assert annotations.crowd_index is not None
    lowest = -np.inf
    for name, limit in CROWD_LEVELS.items():
        inside = (lowest <= annotations.crowd_index) & (annotations.crowd_index < limit)
        level = annotations.of_images(inside)
        ids = frozenset(level.image_ids.tolist())
        here = [result for result in results if result["image_id"] in ids]
        metrics[name] = average_precision(level, here, backend)["AP"] if ids else -1.0
        lowest = limit
    return {name: metrics[name] for name in OF_CROWDPOSE}


def only(
    part: Part, annotations: CocoAnnotations, results: list[dict[str, Any]]
) -> tuple[CocoAnnotations, list[dict[str, Any]]]:
    """Return the annotations and results of one part of the whole body.

    The area stays the whole person's, and a person without labelled keypoints of the part is
    ignored, as in COCO-WholeBody's evaluation (myeval_foot.py and the like). A part has the score
    of its pose, as in mmpose 0.29.
    """
    keypoints = annotations.keypoints[:, part.start : part.stop]
    skeleton = annotations.skeleton.subset(annotations.skeleton.keypoints[part.start : part.stop])
    return replace(
        annotations,
        skeleton=skeleton,
        keypoints=keypoints,
        num_keypoints=(keypoints[:, :, 2] > 0).sum(axis=1),
    ), [
        result | {"keypoints": result["keypoints"][3 * part.start : 3 * part.stop]}
        for result in results
    ]


def pck_metrics(
    annotations: CocoAnnotations, boxes: Boxes, keypoints_NK3: np.ndarray
) -> dict[str, float]:
    """Compute PCK, and PCKh where persons have head boxes; nothing for COCO's keypoints.

    Distances need to know whose pose it is, so that boxes of a detector get none.

    Args:
        boxes: the evaluated ones.
        keypoints_NK3: one row per box, before suppression.
    """
    if not isinstance(boxes, Persons) or annotations.skeleton.is_coco:
        return {}
    metrics = {"PCK": pck(annotations, boxes, keypoints_NK3)}
    if annotations.head_sizes is not None:
        metrics["PCKh"] = pckh(annotations, boxes, keypoints_NK3)
    return metrics


def why_not_reported(metric: str, annotations: CocoAnnotations, on_detections: bool) -> str:
    """Return why an evaluation will have no PCK or PCKh; "" if it will, and for other metrics.

    Args:
        metric: of `evaluation.save_best`.
        on_detections: the evaluated boxes are a detector's.
    """
    if metric not in ("PCK", "PCKh"):
        return ""
    if annotations.skeleton.is_coco:
        return f"{metric} is not reported for COCO's 17 keypoints"
    if on_detections:
        return f"{metric} is reported on ground-truth boxes only: set data_cfg.use_gt_bbox=true"
    if metric == "PCKh" and annotations.head_sizes is None:
        keys = ", ".join(f"{key} ({meaning})" for key, meaning in HEAD_KEYS.items())
        return f"{annotations.path} has no head boxes, which PCKh needs: one of {keys}"
    return ""


def metric_settings(annotations: CocoAnnotations, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the settings of a result that say by which rules its metrics are; {} for COCO's."""
    settings: dict[str, Any] = {}
    if annotations.crowd_index is not None:
        settings["rules"] = "CrowdPose"
    if not annotations.skeleton.is_coco:
        settings["keypoints"] = list(annotations.skeleton.keypoints)
        settings["sigmas"] = list(annotations.skeleton.sigmas)
    thresholds = {"PCK": {"pck_thr": PCK_THR}, "PCKh": {"pckh_thr": PCKH_THR}}
    for name, threshold in thresholds.items():
        settings |= threshold if name in metrics else {}
    return settings
