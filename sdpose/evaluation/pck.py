"""PCK and PCKh: the share of keypoints that lie near the annotated ones.

Both are over the poses of ground-truth boxes, before suppression, and over labelled keypoints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdpose.data.coco import CocoAnnotations, Persons

PCK_THR = 0.2  # of the longer side of the box
PCKH_THR = 0.5  # of the head size
# MPII's evaluation leaves these two out: mmpose's `TopDownMpiiDataset`, `PCKh.mask[6:8]`.
NOT_IN_PCKH = ("pelvis", "thorax")

Floats = NDArray[np.float64]


def pck(annotations: CocoAnnotations, persons: Persons, keypoints_NK3: NDArray) -> float:
    """Compute the mean over the keypoints of the share closer than 0.2 of the box's longer side.

    Boxes are those of the annotations, not clipped to the image; a keypoint that nobody has does
    not count.

    Args:
        persons: of `annotations`.
        keypoints_NK3: image pixels, one row per person.
    Returns:
        0..1; -1 without labelled keypoints.
    Source:
        mmpose 0.29 `keypoint_pck_accuracy`, as `PCK` of its hand datasets uses it.
    """
    sides_N = annotations.boxes_xywh[annotations.rows_of(persons.ann_id), 2:].max(axis=1)
    near_NK = distances(persons, keypoints_NK3, sides_N) < PCK_THR
    labelled_NK = (persons.visible > 0) & (sides_N > 0)[:, None]
    counts_K = labelled_NK.sum(axis=0)
    if not counts_K.any():
        return -1.0
    there_K = counts_K > 0
    return float(np.mean((near_NK & labelled_NK).sum(axis=0)[there_K] / counts_K[there_K]))


def pckh(annotations: CocoAnnotations, persons: Persons, keypoints_NK3: NDArray) -> float:
    """Compute MPII's PCKh@0.5: the share within half a head size, pelvis and thorax left out.

    All keypoints weigh the same, unlike those of `pck`. Persons without a head size do not count.

    Args:
        annotations: with head sizes.
        persons: of `annotations`.
        keypoints_NK3: image pixels, one row per person.
    Returns:
        0..1; -1 without labelled keypoints of persons with a head size.
    Source:
        mmpose 0.29 `TopDownMpiiDataset.evaluate`, after MPII's evalMPII.m.
    """
    assert annotations.head_sizes is not None
    sizes_N = annotations.head_sizes[annotations.rows_of(persons.ann_id)]
    near_NK = distances(persons, keypoints_NK3, sizes_N) <= PCKH_THR
    counted_K = np.array([name not in NOT_IN_PCKH for name in annotations.skeleton.keypoints])
    labelled_NK = (persons.visible > 0) & (sizes_N > 0)[:, None] & counted_K
    count = int(labelled_NK.sum())
    return float((near_NK & labelled_NK).sum() / count) if count else -1.0


def distances(persons: Persons, keypoints_NK3: NDArray, sizes_N: Floats) -> Floats:
    """Compute distances to the annotated keypoints in units of `sizes_N`, [N, K]."""
    delta = keypoints_NK3[:, :, :2].astype(np.float64) - persons.joints
    return np.linalg.norm(delta, axis=2) / np.where(sizes_N > 0, sizes_N, 1.0)[:, None]
