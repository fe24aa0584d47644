"""COCO's keypoint AP of a list of poses, computed by pycocotools or faster-coco-eval.

The sigmas are those of the annotations' skeleton.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.coco import CocoAnnotations
from sdpose.data.tables import Ints
from sdpose.data.wholebody import BODY, is_wholebody
from sdpose.errors import UserError, how_to_install
from sdpose.metric_names import METRIC_NAMES


def coco_results(
    image_ids_N: NDArray[np.int64],
    keypoints_NK3: NDArray[np.float32],
    scores_N: NDArray[np.float32],
    category_id: int,
) -> list[dict[str, Any]]:
    """Convert poses to COCO keypoint results (https://cocodataset.org/#format-results).

    Args:
        image_ids_N: COCO's image ids.
        keypoints_NK3: x, y in image pixels, score 0..1 (in the place of COCO's visibility).
        scores_N: of the poses; AP orders the poses by them.
    """
    return [
        {"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score}
        for image_id, keypoints, score in zip(
            image_ids_N.tolist(),
            keypoints_NK3.reshape(len(keypoints_NK3), 3 * keypoints_NK3.shape[1]).tolist(),
            scores_N.tolist(),
            strict=True,
        )
    ]


def average_precision(
    annotations: CocoAnnotations,
    results: list[dict[str, Any]],
    backend: str = "pycocotools",
) -> dict[str, float]:
    """Compute the ten metrics of COCO's keypoint evaluation over all images of `annotations`.

    Args:
        results: from `coco_results`; not modified.
        backend: "pycocotools" or "faster-coco-eval".
    Returns:
        By METRIC_NAMES, 0..1; -1 without ground truth to find.
    Raises:
        UserError: the backend is not installed.
    """
    evaluator = coco_evaluation(annotations, results, backend)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return dict(zip(METRIC_NAMES, map(float, evaluator.stats), strict=False))


def coco_evaluation(
    annotations: CocoAnnotations,
    results: list[dict[str, Any]],
    backend: str = "pycocotools",
    *,
    area_ranges: Mapping[str, tuple[float, float]] | None = None,
    oks_thresholds: Sequence[float] | None = None,
) -> Any:
    """Evaluate and accumulate with the COCOeval of a backend; arguments as in `average_precision`.

    Args:
        area_ranges: (low, high) in pixels² by name; default: COCO's.
        oks_thresholds: 0..1; default: COCO's.
    Returns:
        The COCOeval. `eval["precision"]` is [thresholds, 101 recalls, 1, area ranges, 1], -1
        without ground truth to find.
    """
    coco_class, eval_class = _backend(backend)
    dataset = coco_dataset(annotations)
    with contextlib.redirect_stdout(io.StringIO()):  # both print their progress
        truth = coco_class()
        truth.dataset = dataset
        truth.createIndex()
        if results:  # loadRes writes box and area into the entries, and fails on an empty list
            found = truth.loadRes(
                [result | _area_of_body(result, annotations.skeleton) for result in results]
            )
        else:
            found = coco_class()
            found.dataset = {**dataset, "annotations": []}
            found.createIndex()
        evaluator = eval_class(truth, found, "keypoints")
        # COCO's own stay as the backend has them: its 0.35 / 10 is not 0.035 to the last bit.
        if annotations.skeleton.sigmas != COCO.sigmas:
            evaluator.params.kpt_oks_sigmas = np.array(annotations.skeleton.sigmas)
        evaluator.params.catIds = [annotations.person_category["id"]]
        if area_ranges is not None:
            evaluator.params.areaRng = [list(limits) for limits in area_ranges.values()]
            evaluator.params.areaRngLbl = list(area_ranges)
        if oks_thresholds is not None:
            evaluator.params.iouThrs = np.asarray(oks_thresholds)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def evaluation_ids(annotations: CocoAnnotations) -> Ints:
    """Return the annotation ids [A] that the evaluators get: none is 0.

    Both backends take 0 for "not matched", so that they would never find the annotation of this id.
    """
    ids = annotations.ann_ids
    return ids + (1 - ids.min()) if (ids == 0).any() else ids


def coco_dataset(annotations: CocoAnnotations) -> dict[str, Any]:
    """Convert annotations to a COCO JSON document with the fields that the evaluation reads."""
    image_ids = annotations.image_ids.tolist()
    columns = zip(
        evaluation_ids(annotations).tolist(),
        annotations.ann_image_index.tolist(),
        annotations.boxes_xywh.tolist(),
        annotations.areas.tolist(),
        annotations.iscrowd.tolist(),
        annotations.num_keypoints.tolist(),
        annotations.keypoints.reshape(len(annotations.keypoints), -1).tolist(),
        strict=True,
    )
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height}
            for i, name, (width, height) in zip(
                image_ids, annotations.file_names, annotations.image_sizes_wh.tolist(), strict=True
            )
        ],
        "categories": [annotations.person_category],
        "annotations": [
            {
                "id": ann_id,
                "image_id": image_ids[image_index],
                "category_id": annotations.person_category["id"],
                "bbox": bbox,
                "area": area,
                "iscrowd": int(iscrowd),
                "num_keypoints": num_keypoints,
                "keypoints": keypoints,
            }
            for ann_id, image_index, bbox, area, iscrowd, num_keypoints, keypoints in columns
        ],
    }


def _area_of_body(result: dict[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The box that gives a pose its area, if it is not that of all its keypoints.

    COCO-WholeBody's evaluation takes the 17 body keypoints of the 133.
    """
    if not is_wholebody(skeleton):
        return {}
    x, y = (result["keypoints"][axis : 3 * BODY.stop : 3] for axis in (0, 1))
    return {"bbox": [min(x), min(y), max(x) - min(x), max(y) - min(y)]}


def _backend(name: str) -> tuple[Any, Any]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError:
        raise UserError(
            "evaluation.backend is faster-coco-eval, which is not installed: "
            f"{how_to_install('fast-eval')}, or set evaluation.backend=pycocotools"
        ) from None
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
