"""Classifies the errors of predicted keypoints: jitter, inversion, swap or miss.

The taxonomy of Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose
Estimation" (ICCV 2017, arXiv 1707.05388), section 3.1, decided as the authors' coco-analyze does.

M = poses that are matched to a person, K joints, P = persons of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.config.schema import Skeleton
from sdpose.data.coco import CocoAnnotations
from sdpose.evaluation.coco_ap import average_precision, coco_evaluation, evaluation_ids

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
UNLABELLED = -1
ERROR_KINDS = (JITTER, INVERSION, SWAP, MISS)

MATCH_OKS = 0.1  # a pose belongs to a person from this OKS on (coco-analyze's oksLocThrs)
NEAR, ON = 0.5, 0.85  # keypoint similarities: near a joint, on it (its jitterKsThrs)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """Poses and the persons that they are of, by COCO's matching at OKS 0.1."""

    rows: NDArray[np.int64]  # [M], of the results
    persons: NDArray[np.int64]  # [M], of the annotations
    oks: Array  # [M]
    similarity: Array  # [M,K], of a joint to where it should be; NaN where not annotated
    nearest: Array  # [M,K], to the most similar of all joints that it may be taken for; likewise
    kinds: NDArray[np.int8]  # [M,K], index into KINDS, or UNLABELLED
    num_poses: int  # all that were evaluated (20 an image at most)
    num_persons: int  # all that are to be found

    def count(self, kind: int) -> int:
        return int((self.kinds == kind).sum())


def keypoint_similarity(
    points_K2: Array, joints_PK2: Array, areas_P: Array, variances_K: Array
) -> Array:
    """exp(-d² / (2 s² k²)) of every joint to the same joint of P persons, float64[P,K] in 0..1.

    s² is the person's area in pixels², k² the variance: k is twice the skeleton's sigma
    (https://cocodataset.org/#keypoints-eval).
    """
    squared_PK = ((points_K2 - joints_PK2) ** 2).sum(axis=-1)
    return np.exp(-squared_PK / variances_K / (areas_P[:, None] + np.spacing(1)) / 2)


def joint_errors(
    points_K2: Array, joints_PK3: Array, areas_P: Array, person: int, skeleton: Skeleton
) -> tuple[NDArray[np.int8], Array, Array]:
    """Kinds, similarities and nearest similarities ([K] each) of one pose of person `person`.

    A joint is compared with itself and its mirror image, of its own person and of the others. The
    most similar one decides: none above 0.5: a miss; itself: good from 0.85 on, else jitter; its
    own mirror image: an inversion; a joint of another person: a swap.
    """
    flip, variances_K = np.array(skeleton.flip_index), _variances(skeleton)
    labelled_PK = joints_PK3[:, :, 2] > 0
    same_PK = keypoint_similarity(points_K2, joints_PK3[:, :, :2], areas_P, variances_K)
    mirrored_PK = keypoint_similarity(points_K2, joints_PK3[:, flip, :2], areas_P, variances_K)
    same_PK = np.where(labelled_PK, same_PK, 0.0)
    mirrored_PK = np.where(labelled_PK[:, flip], mirrored_PK, 0.0)
    mirrored_PK[:, flip == np.arange(len(flip))] = 0.0  # as the nose, its own mirror image
    others = np.arange(len(joints_PK3)) != person
    own_K, inverted_K = same_PK[person], mirrored_PK[person]
    foreign_K = np.maximum(
        same_PK[others].max(axis=0, initial=0.0), mirrored_PK[others].max(axis=0, initial=0.0)
    )
    nearest_K = np.maximum(np.maximum(own_K, inverted_K), foreign_K)
    # In the order of coco-analyze's argmax, which decides where similarities are equal.
    kinds_K = np.select(
        [
            ~labelled_PK[person],
            nearest_K < NEAR,
            (own_K == nearest_K) & (own_K >= ON),
            own_K == nearest_K,
            foreign_K >= nearest_K,
        ],
        [UNLABELLED, MISS, GOOD, JITTER, SWAP],
        INVERSION,
    )
    own_K = np.where(labelled_PK[person], own_K, np.nan)
    return kinds_K.astype(np.int8), own_K, np.where(labelled_PK[person], nearest_K, np.nan)


def _variances(skeleton: Skeleton) -> Array:
    """[K]: (2 sigma)², the k² of OKS."""
    return (2 * np.array(skeleton.sigmas)) ** 2


def match(annotations: CocoAnnotations, results: list[dict[str, Any]]) -> Matches:
    """Matches COCO keypoint results to persons and judges their joints."""
    evaluator = coco_evaluation(
        annotations, results, area_ranges={"all": (0.0, 1e10)}, oks_thresholds=[MATCH_OKS]
    )
    to_find: NDArray[np.bool_] = (annotations.num_keypoints > 0) & ~annotations.iscrowd
    labelled = np.any(annotations.keypoints[:, :, 2] > 0, axis=1)
    index_of = {ann_id: i for i, ann_id in enumerate(evaluation_ids(annotations).tolist())}
    in_image: dict[int, list[int]] = {}
    for index, image in enumerate(annotations.ann_image_index.tolist()):
        in_image.setdefault(image, []).append(index)
    rows, persons, judged, num_poses = [], [], [], 0
    for image in filter(None, evaluator.evalImgs):
        num_poses += len(image["dtIds"]) - int(image["dtIgnore"][0].sum())
        for result_id, ann_id in zip(image["dtIds"], image["dtMatches"][0], strict=True):
            person = index_of.get(int(ann_id), -1)  # 0: of nobody
            if person < 0 or not to_find[person] or not labelled[person]:
                continue
            row = result_id - 1  # loadRes counts from 1
            there = in_image[int(annotations.ann_image_index[person])]
            points_K2 = np.array(results[row]["keypoints"]).reshape(-1, 3)[:, :2]
            joints_PK3, areas_P = annotations.keypoints[there], annotations.areas[there]
            judged.append(
                joint_errors(
                    points_K2, joints_PK3, areas_P, there.index(person), annotations.skeleton
                )
            )
            rows.append(row)
            persons.append(person)
    num_joints = annotations.keypoints.shape[1]
    kinds = np.array([k for k, _, _ in judged], np.int8).reshape(-1, num_joints)
    similarity = np.array([s for _, s, _ in judged]).reshape(-1, num_joints)
    return Matches(
        rows=np.array(rows, np.int64),
        persons=np.array(persons, np.int64),
        oks=np.nansum(similarity, axis=1) / (kinds >= 0).sum(axis=1),
        similarity=similarity,
        nearest=np.array([n for _, _, n in judged]).reshape(-1, num_joints),
        kinds=kinds,
        num_poses=num_poses,
        num_persons=int(to_find.sum()),
    )


def corrected_ap(
    annotations: CocoAnnotations, results: list[dict[str, Any]], matches: Matches, kind: int
) -> float:
    """AP if the joints with this kind of error were no worse than they need be.

    As the paper does it (section 3.1): jitter and misses are moved to where their similarity is
    0.85 and 0.5, inversions and swaps to where it is what they reach at the wrong joint. (coco-
    analyze takes sigma for k = 2 sigma here, and moves joints closer than it says.)
    """
    target = {JITTER: np.full_like(matches.nearest, ON), MISS: np.full_like(matches.nearest, NEAR)}
    similarity_MK = np.clip(target.get(kind, matches.nearest), np.spacing(1), 1.0)
    variances_K = _variances(annotations.skeleton)
    repaired = [dict(result) for result in results]
    for m, k in np.argwhere(matches.kinds == kind).tolist():
        person = matches.persons[m]
        scale = 2 * annotations.areas[person] * variances_K[k]
        distance = float(np.sqrt(-np.log(similarity_MK[m, k]) * scale))
        entry = repaired[int(matches.rows[m])]
        keypoints = list(entry["keypoints"])
        x, y, _ = annotations.keypoints[person, k].tolist()
        keypoints[3 * k : 3 * k + 2] = [x + distance, y]
        entry["keypoints"] = keypoints
    return average_precision(annotations, repaired)["AP"]
