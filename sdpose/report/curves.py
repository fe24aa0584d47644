"""COCO's precision, cut in other ways: by OKS threshold and recall, size of person, and joint.

All of it is pycocotools' own evaluation of the same results, so that every number here is one that
its users could get from it. T = OKS thresholds, R = 101 recalls, K joints.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.data.coco import CocoAnnotations
from sdpose.evaluation.coco_ap import coco_evaluation

Array = NDArray[np.float64]
Results = list[dict[str, Any]]

# Square roots of COCO's areas (pixels²): 32 and 96 are its own limits of "medium" and "large".
MOST_JOINTS = 50  # one evaluation for each: minutes for a whole body's 133
SIZE_EDGES = (32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 1e5)


@dataclass(frozen=True)
class Curves:
    oks_thresholds: Array  # [T], 0.50 .. 0.95
    recalls: Array  # [R], 0 .. 1
    precision: Array  # [T,R], 0 .. 1; NaN where there is nothing to find
    sizes: list[tuple[float, float, int, float]]  # from, to (square root of area), persons, AP
    joint_ap: Array  # [K]; NaN for a joint that no person has, and with more than MOST_JOINTS


def precision_curves(annotations: CocoAnnotations, results: Results) -> Curves:
    """The curves of COCO keypoint results (`sdpose.evaluation.coco_results`).

    AP of a joint: every person is taken to have this joint alone, so that OKS is the joint's own
    similarity exp(-d² / (2 s² k²)); persons without it are passed over, as COCO passes over persons
    without keypoints. Poses keep their score.
    """
    num_joints = annotations.skeleton.num_keypoints
    limits = {"all": (0.0, 1e10)} | {
        f"{low:g}": (low**2, high**2) for low, high in itertools.pairwise(SIZE_EDGES)
    }
    evaluator = coco_evaluation(annotations, results, area_ranges=limits)
    precision_TRA = _found(evaluator.eval["precision"][:, :, 0, :, 0])
    roots = np.sqrt(annotations.areas[(annotations.num_keypoints > 0) & ~annotations.iscrowd])
    sizes = []
    for index, (low, high) in enumerate(itertools.pairwise(SIZE_EDGES)):
        # COCO's ranges hold both of their ends.
        persons = int(((roots >= low) & (roots <= high)).sum())
        if persons:
            sizes.append((low, high, persons, mean(precision_TRA[:, :, index + 1])))
    return Curves(
        oks_thresholds=np.asarray(evaluator.params.iouThrs),
        recalls=np.asarray(evaluator.params.recThrs),
        precision=precision_TRA[:, :, 0],
        sizes=sizes,
        joint_ap=np.array(
            [
                _ap_of_joint(annotations, results, k) if num_joints <= MOST_JOINTS else np.nan
                for k in range(num_joints)
            ]
        ),
    )


def _ap_of_joint(annotations: CocoAnnotations, results: Results, joint: int) -> float:
    keypoints = np.zeros_like(annotations.keypoints)
    keypoints[:, joint] = annotations.keypoints[:, joint]
    labelled = (keypoints[:, joint, 2] > 0).astype(np.int64)
    alone = replace(annotations, keypoints=keypoints, num_keypoints=labelled)
    evaluator = coco_evaluation(alone, results, area_ranges={"all": (0.0, 1e10)})
    return mean(_found(evaluator.eval["precision"]))


def _found(precision: Array) -> Array:
    return np.where(precision < 0, np.nan, precision)


def mean(values: Array) -> float:
    """Of the values that are there; NaN if none is."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")
