"""COCO's annotations of the figures in a finished picture, and CrowdPose's crowd index."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sdpose.tools.synthetic.painting import visibility
from sdpose.tools.synthetic.scene import Picture, Placed
from sdpose.tools.synthetic.solids import Array
from sdpose.tools.synthetic.subjects import Subject

HEAD = frozenset({"head"})


def annotate(picture: Picture, subject: Subject) -> list[dict[str, Any]]:
    """Return COCO's annotations (without ids) of the figures in a picture."""
    owner = picture.owner
    last = sum(len(placed.figure.parts) for placed in picture.figures)
    seen = np.bincount(np.maximum(owner, 0).ravel(), minlength=1 + last) > 0
    names = subject.skeleton.keypoints
    annotations = []
    for placed in picture.figures:
        if placed.kind == "crowd":
            continue
        mask = placed.mask(owner, subject.layout.parts)
        if mask.sum() < 12:  # covered by others
            continue
        keypoints = np.zeros((len(names), 3))
        if placed.kind == "person":
            joints = placed.origin + placed.size * np.array(
                [placed.figure.joints[name].position[:2] for name in names]
            )
            v = visibility(placed.figure, names, joints, owner, seen, placed.first_owner)
            keypoints[:, :2] = np.round(joints, 2)
            keypoints[:, 2] = v
            keypoints[v == 0] = 0
        annotation = _annotation(mask, keypoints, _polygons(mask), iscrowd=0)
        if subject.headbox:
            annotation["headbox"] = _headbox(placed)
        annotations.append(annotation)
    crowd = [placed.mask(owner) for placed in picture.figures if placed.kind == "crowd"]
    mask = np.logical_or.reduce(crowd) if crowd else np.zeros_like(owner, dtype=bool)
    if mask.any():
        run_lengths = {"counts": _run_lengths(mask), "size": list(mask.shape)}
        annotations.append(_annotation(mask, np.zeros((len(names), 3)), run_lengths, iscrowd=1))
    return annotations


def crowd_index(annotations: list[dict[str, Any]]) -> float:
    """Return an image's crowd index, 0 to 1: the mean over its people of the joints of others in
    the box, for each joint of their own.

    Source: Li et al., CrowdPose, CVPR 2019, section 4.1.
    """
    people = [a for a in annotations if a["num_keypoints"]]
    triples = [np.array(a["keypoints"], dtype=float).reshape(-1, 3) for a in people]
    labelled = [joints[joints[:, 2] > 0, :2] for joints in triples]
    ratios = []
    for i, annotation in enumerate(people):
        x, y, width, height = annotation["bbox"]
        others = np.concatenate([np.empty((0, 2)), *labelled[:i], *labelled[i + 1 :]])
        inside = (others >= (x, y)) & (others <= (x + width, y + height))
        ratios.append(inside.all(axis=1).sum() / len(labelled[i]))
    return min(1.0, round(float(np.mean(ratios)), 4)) if ratios else 0.0


def _headbox(placed: Placed) -> list[float]:
    """The head's extent as x1, y1, x2, y2, whatever covers it."""
    corners = np.concatenate(placed.figure.extent(HEAD)).reshape(2, 2)
    return [float(n) for n in np.round(placed.origin + placed.size * corners, 2).ravel()]


def _annotation(
    mask: npt.NDArray[np.bool_], keypoints_K3: Array, segmentation: Any, *, iscrowd: int
) -> dict[str, Any]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    numbers = [int(n) if n == int(n) else float(n) for n in keypoints_K3.ravel()]
    return {
        "segmentation": segmentation,
        "num_keypoints": int((keypoints_K3[:, 2] > 0).sum()),
        "area": int(mask.sum()),
        "iscrowd": iscrowd,
        "keypoints": numbers,
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "category_id": 1,
    }


def _polygons(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """The outline of every fragment, as x, y, x, y, ...; a pixel reaches from x to x + 1."""
    # Traced at twice the size, where a line of pixels has an inside; to half a pixel.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [cv2.approxPolyDP(contour, 1.0, True) for contour in contours]
    corners = [o if len(o) >= 3 else c for o, c in zip(outlines, contours, strict=True)]
    return [((polygon.ravel() + 0.5) / 2).tolist() for polygon in corners]


def _run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE: lengths of 0s and 1s in turn, down the columns, 0s first.

    >>> _run_lengths(np.array([[0, 1], [1, 1]], dtype=bool))
    [1, 3]
    >>> _run_lengths(np.array([[1, 0], [1, 0]], dtype=bool))
    [0, 2, 2]
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], changes, [mask.size]])
    return [int(n) for n in np.diff(bounds)]
