"""The best and the worst poses as pictures: the crop, the annotated joints, the predicted ones."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from sdpose.config.schema import Skeleton
from sdpose.data.images import ImageError, read_image, warp_crop
from sdpose.geometry import apply_affine, box_to_center_size, crop_affine
from sdpose.report.charts import picture
from sdpose.report.keypoint_errors import ERROR_KINDS, KINDS, Matches
from sdpose.report.pose_figures import readable
from sdpose.report.run_files import RunFiles

SIZE_WH = (210, 280)
MARGIN = 1.4  # of the picture over the person's box
NUM_BEST, NUM_WORST = 6, 12
MIN_JOINTS = 6  # persons with fewer annotated ones are good or bad by chance


@dataclass(frozen=True)
class Person:
    svg: Markup
    title: str
    errors: str
    source: str


def ranked(files: RunFiles, matches: Matches) -> NDArray[np.intp]:
    """Indices into `matches`, worst OKS first, of persons with enough joints to judge by."""
    assert files.annotations is not None
    enough = (matches.kinds >= 0).sum(axis=1) >= min(MIN_JOINTS, matches.kinds.shape[1])
    enough &= (files.annotations.boxes_xywh[matches.persons, 2:] > 0).all(axis=1)
    order = np.argsort(matches.oks, kind="stable")
    return order[enough[order]]


def people(files: RunFiles, matches: Matches) -> tuple[list[Person], list[Person], str]:
    """The worst and the best ones, and why there are none, if so."""
    order = ranked(files, matches)
    worst = order[: min(NUM_WORST, (len(order) + 1) // 2)]
    best = order[::-1][: min(NUM_BEST, len(order) // 2)]
    try:
        return (
            [_person(files, matches, int(m)) for m in worst],
            [_person(files, matches, int(m)) for m in best],
            "" if len(order) else "No pose is matched to a person with enough joints.",
        )
    except ImageError as error:
        return [], [], f"The images cannot be read here: {error}"


def _person(files: RunFiles, matches: Matches, index: int) -> Person:
    assert files.annotations is not None
    annotations, person = files.annotations, int(matches.persons[index])
    row = files.results[int(matches.rows[index])]
    pixels, matrix = crop(files, person, SIZE_WH, MARGIN)
    predicted = apply_affine(np.array(row["keypoints"]).reshape(-1, 3)[:, :2], matrix) + 0.5
    truth = apply_affine(annotations.keypoints[person, :, :2], matrix) + 0.5
    kinds = matches.kinds[index]
    labelled = annotations.keypoints[person, :, 2] > 0
    svg = picture(
        *SIZE_WH,
        f"A person with predicted and annotated joints, OKS {matches.oks[index]:.2f}",
        image(pixels),
        _limbs(annotations.skeleton, truth, labelled, "truth"),
        _limbs(annotations.skeleton, predicted, labelled, ""),
        _marks(annotations.skeleton, predicted, kinds),
    )
    counts = [(KINDS[kind], int((kinds == kind).sum())) for kind in ERROR_KINDS]
    errors = ", ".join(f"{name} {n}" for name, n in counts if n) or "no errors"
    name = annotations.file_names[annotations.ann_image_index[person]]
    title = f"OKS {matches.oks[index]:.2f}, score {row['score']:.2f}"
    return Person(svg, title, errors, f"{Path(name).name} #{annotations.ann_ids[person]}")


def crop(
    files: RunFiles, person: int, size_wh: tuple[int, int], margin: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The surroundings of an annotated person, uint8 RGB, and the matrix from image pixels there.

    Raises ImageError if the image cannot be read.
    """
    assert files.annotations is not None
    annotations, experiment = files.annotations, files.experiment
    name = annotations.file_names[annotations.ann_image_index[person]]
    pixels = read_image(Path(experiment.data_root) / experiment.data.val.img_prefix / name)
    (center,), (size,) = box_to_center_size(
        annotations.boxes_xywh[person], aspect_ratio=size_wh[0] / size_wh[1], padding=margin
    )
    matrix = crop_affine(center, size, 0.0, size_wh)
    return warp_crop(pixels, matrix, size_wh), matrix


def image(pixels: NDArray[np.uint8], css: str = "") -> Markup:
    """The whole picture of an SVG of its size: a JPEG of RGB, a PNG of RGBA."""
    if pixels.shape[2] == 4:
        _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))
        kind = "png"
    else:
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
        kind = "jpeg"
    return Markup(
        '<image class="{}" width="100%" height="100%" preserveAspectRatio="none" '
        'href="data:image/{};base64,{}"/>'
    ).format(css, kind, base64.b64encode(data.tobytes()).decode())


def _limbs(
    skeleton: Skeleton, points: NDArray[np.float64], seen: NDArray[np.bool_], css: str
) -> Markup:
    parts = []
    for a, b in skeleton.limb_indices:
        if seen[a] and seen[b]:
            (x1, y1), (x2, y2) = points[a], points[b]
            line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            if not css:
                parts.append(f'<line class="limb under" {line}/>')
            parts.append(f'<line class="limb {css or _limb_side(skeleton, a, b)}" {line}/>')
    return Markup("".join(parts))


def _marks(skeleton: Skeleton, points: NDArray[np.float64], kinds: NDArray[np.int8]) -> Markup:
    """A dot for a joint that is good, a ring in the error's colour for one that is not."""
    parts = []
    for joint, ((x, y), kind) in enumerate(zip(points, kinds.tolist(), strict=True)):
        if kind >= 0:
            name = KINDS[kind]
            radius = 2.5 if name == "good" else 5
            title = escape(f"{readable(skeleton, joint)}: {name}")
            parts.append(
                f'<circle class="joint {name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
                f"<title>{title}</title></circle>"
            )
    return Markup("".join(parts))


def _limb_side(skeleton: Skeleton, a: int, b: int) -> str:
    sides = {skeleton.sides[joint] for joint in (a, b)} - {""}
    return sides.pop() if len(sides) == 1 else "middle"
