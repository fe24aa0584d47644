"""Pose scores and non-maximum suppression by object keypoint similarity (OKS).

Reproduces mmpose 0.29's `TopDownCocoDataset.evaluate` (rescoring), `oks_nms` and `soft_oks_nms`
(mmpose/core/post_processing/nms.py, after HRNet's lib/nms/nms.py), in float32 where those round to
float32. Deviation: their sort leaves the order of equal scores undefined (it depends on the
processor); here the earlier row comes first.

N = poses, K joints; coordinates in image pixels, areas in pixels².
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SOFT_NMS_MAX_POSES = 20  # per image; max_dets of soft_oks_nms and of COCO's evaluation

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


def rescore(joint_scores_NK: NDArray, box_scores_N: ArrayLike, vis_thr: float) -> Floats:
    """Score poses: box score * mean of the joint scores above `vis_thr`, 0 if there are none.

    All scores and `vis_thr` are in 0..1. Returns [N] float32.
    """
    scores_NK = np.asarray(joint_scores_NK, dtype=np.float32)
    counted_NK = scores_NK > np.float32(vis_thr)
    total_N = np.zeros(len(scores_NK), dtype=np.float32)
    for joint in range(scores_NK.shape[1]):  # float32 sums depend on the order
        total_N += np.where(counted_NK[:, joint], scores_NK[:, joint], np.float32(0))
    count_N = counted_NK.sum(axis=1).astype(np.float32)
    return total_N / np.maximum(count_N, 1) * np.asarray(box_scores_N, dtype=np.float32)


def oks_matrix(keypoints_NK2: NDArray, areas_N: NDArray, sigmas_K: NDArray) -> Floats:
    """Compute the OKS of every pair of poses, [N, N] float32 in 0..1.

    Args:
        keypoints_NK2: image pixels.
        areas_N: pixels²; a pair uses the mean of its two areas.
        sigmas_K: of the skeleton; k_i = 2 sigma_i (https://cocodataset.org/#keypoints-eval).
    Source:
        mmpose's `oks_iou`: COCO's exp(-d² / (2 s² k²)), averaged over all joints.
    """
    points = np.asarray(keypoints_NK2, dtype=np.float32)
    areas = np.asarray(areas_N, dtype=np.float32)
    delta = points[:, None] - points[None, :]
    squared_NNK = delta[..., 0] ** 2 + delta[..., 1] ** 2
    area_NN1 = ((areas[:, None] + areas[None, :]) / 2)[..., None] + np.spacing(1)
    similarity = np.exp(-(squared_NNK / (np.asarray(sigmas_K) * 2) ** 2 / area_NN1 / 2))
    return (similarity.sum(axis=-1) / similarity.shape[-1]).astype(np.float32)


def oks_nms(
    keypoints_NK2: NDArray, areas_N: NDArray, scores_N: NDArray, sigmas_K: NDArray, thr: float
) -> Indices:
    """Suppress the poses of one image: each kept pose removes lower-scored ones with OKS > thr.

    Returns:
        Indices of the kept poses, the best first.
    """
    order = _best_first(scores_N)
    similar = oks_matrix(keypoints_NK2[order], areas_N[order], sigmas_K) > np.float32(thr)
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~similar[i, i + 1 :]
    return order[alive]


def soft_oks_nms(
    keypoints_NK2: NDArray, areas_N: NDArray, scores_N: NDArray, sigmas_K: NDArray, thr: float
) -> Indices:
    """Pick up to 20 poses of one image; a pick multiplies the others' scores by exp(-OKS² / thr).

    As in mmpose, the lowered scores only determine the next pick: results keep `scores_N`.

    Returns:
        Indices of the kept poses, in the order of the picks.
    """
    oks = oks_matrix(keypoints_NK2, areas_N, sigmas_K)
    order = _best_first(scores_N)
    scores = np.asarray(scores_N, dtype=np.float32)[order]
    picked: list[int] = []
    while len(order) and len(picked) < SOFT_NMS_MAX_POSES:
        best, order = order[0], order[1:]
        picked.append(best)
        scores = scores[1:] * np.exp(-(oks[best, order] ** 2) / np.float32(thr))
        again = _best_first(scores)
        order, scores = order[again], scores[again]
    return np.array(picked, dtype=np.intp)


def _best_first(scores_N: NDArray) -> Indices:
    return np.argsort(-scores_N, kind="stable")


def suppress(
    image_ids_N: NDArray[np.int64],
    keypoints_NK2: NDArray,
    areas_N: NDArray,
    scores_N: NDArray,
    sigmas_K: NDArray,
    *,
    thr: float,
    soft: bool,
) -> Indices:
    """Suppress poses image by image.

    Args:
        keypoints_NK2: image pixels.
        areas_N: pixels².
        scores_N: from `rescore`.
        sigmas_K: of the skeleton.
        thr: OKS, 0..1.
        soft: use `soft_oks_nms` instead of `oks_nms`.
    Returns:
        Kept rows: images by first appearance, the poses of each in the order of the NMS.
    """
    kept: list[Indices] = []
    for rows in rows_by_image(image_ids_N):
        nms: Any = soft_oks_nms if soft else oks_nms
        kept.append(rows[nms(keypoints_NK2[rows], areas_N[rows], scores_N[rows], sigmas_K, thr)])
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.intp)


def rows_by_image(image_ids_N: NDArray[np.int64]) -> list[Indices]:
    """Group row indices by image: images by first appearance, rows ascending.

    >>> [rows.tolist() for rows in rows_by_image(np.array([7, 3, 7]))]
    [[0, 2], [1]]
    """
    if len(image_ids_N) == 0:
        return []
    _, first, group = np.unique(image_ids_N, return_index=True, return_inverse=True)
    rows = np.argsort(first[group], kind="stable")
    starts = np.flatnonzero(np.diff(first[group][rows])) + 1
    return np.split(rows, starts)
