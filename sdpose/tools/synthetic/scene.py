"""A picture: a few figures, near and far, before and behind things, on a restless background."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sdpose.tools.synthetic.painting import fill, hull_polygon, own, paint_figure
from sdpose.tools.synthetic.solids import Array, Color, Figure, Range

IMAGE_SIZES_WH = ((320, 240), (320, 240), (240, 320), (288, 288))
# In the owner map, where no body part is on top.
NO_OWNER = 0
OBJECT = -1


Sampler = Callable[[np.random.Generator], Figure]


@dataclass(frozen=True)
class Layout:
    """How many figures a picture has, how large and how close together they are.

    The defaults are those of people in COCO.
    """

    numbers: tuple[float, ...] = (0.45, 0.35, 0.2)  # probabilities of 1, 2, ... figures
    sizes: Range = (0.4, 1.0)  # of a figure's unit, in image heights
    overlap: float = 0.2  # of two boxes, at most; shares of the smaller one
    truncated: float = 0.1  # share of figures that may reach out of the image
    crowds: bool = True  # groups and distant figures without keypoints, too
    parts: frozenset[str] | None = None  # what is annotated of a figure; None: all of it


@dataclass(frozen=True)
class Placed:
    """A figure in a picture: its origin and size in pixels; its parts' first number in the owner
    map; whether an annotator would mark joints, or would see one of a crowd."""

    figure: Figure
    origin: Array
    size: float
    first_owner: int
    kind: str  # "person" | "far" | "crowd"

    def mask(
        self, owner_HW: npt.NDArray[np.int16], parts: frozenset[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return where these parts, or all of them, are on top."""
        if parts is None:
            last = self.first_owner + len(self.figure.parts) - 1
            return (owner_HW >= self.first_owner) & (owner_HW <= last)
        named = enumerate(self.figure.parts, start=self.first_owner)
        return np.isin(owner_HW, [owner for owner, part in named if part.name in parts])


@dataclass(frozen=True)
class Picture:
    """image [H, W, 3], BGR; owner [H, W], the number of the part on top, 0 or less: none."""

    image: npt.NDArray[np.uint8]
    owner: npt.NDArray[np.int16]
    figures: list[Placed]


def render_picture(rng: np.random.Generator, sample: Sampler, layout: Layout) -> Picture:
    """Return a random picture of figures that `sample` gives."""
    width, height = IMAGE_SIZES_WH[rng.integers(len(IMAGE_SIZES_WH))]
    image = _background(rng, width, height)
    owner = np.zeros((height, width), dtype=np.int16)
    for _ in range(rng.integers(2, 8)):
        _paint_object(rng, image, owner, NO_OWNER)
    figures = _place_figures(rng, width, height, sample, layout)
    for placed in sorted(figures, key=lambda p: p.size):  # the small ones are far away
        paint_figure(image, owner, placed.figure, placed.origin, placed.size, placed.first_owner)
    if rng.random() < 0.25:
        _paint_object(rng, image, owner, OBJECT)
    return Picture(image, owner, figures)


def _background(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A gradient between two colours, blotches and grain."""
    rows, columns = height // 20, width // 20
    top, bottom = _muted_color(rng), _muted_color(rng)
    ramp = np.linspace(0, 1, rows)[:, None, None]
    blotches = rng.normal(0, rng.uniform(3, 25), (rows, columns, 1))
    coarse = np.clip(top + np.subtract(bottom, top) * ramp + blotches, 0, 255).astype(np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.frombuffer(rng.bytes(width * height), dtype=np.uint8) >> int(rng.integers(3, 9))
    return cv2.add(picture, cv2.merge([grain.reshape(height, width)] * 3))


def _muted_color(rng: np.random.Generator) -> Color:
    """Walls, lawns and furniture are paler than clothes."""
    blue, green, red = np.clip(rng.uniform(25, 230) + rng.normal(0, 14, 3), 0, 255)
    return (float(blue), float(green), float(red))


def _paint_object(
    rng: np.random.Generator,
    image: npt.NDArray[np.uint8],
    owner: npt.NDArray[np.int16],
    number: int,
) -> None:
    """Clutter: a blob, a box, a pole, or a chain of sticks that resembles a limb."""
    height, width = owner.shape
    start = rng.uniform((0, 0), (width, height))
    size = rng.uniform(0.06, 0.14 if number == OBJECT else 0.3) * height
    color = _muted_color(rng)
    kind = rng.choice(4, p=[0.25, 0.25, 0.2, 0.3])
    if kind == 0:
        polygons = [hull_polygon(start + rng.normal(0, size / 2, (4, 2)), np.full(4, size / 3))]
    elif kind == 1:
        axis = np.array([math.cos(angle := rng.normal(0, 0.2)), math.sin(angle)])
        side = np.array([-axis[1], axis[0]]) * rng.uniform(0.4, 2.0)
        corners = np.array([axis + side, axis - side, -axis - side, side - axis])
        polygons = [hull_polygon(start + size * corners, np.full(4, 1.0))]
    elif kind == 2:
        ends = np.array([start, start + rng.normal(0, 1, 2) * height])
        polygons = [hull_polygon(ends, np.full(2, rng.uniform(1.0, 4.0)))]
    else:
        steps = rng.normal(0, size, (rng.integers(3, 6), 2))
        bends = start + np.cumsum(steps, axis=0)
        radius = rng.uniform(0.02, 0.05) * height
        polygons = [
            hull_polygon(bends[i : i + 2], np.full(2, radius)) for i in range(len(bends) - 1)
        ]
    for polygon in polygons:
        fill(image, polygon, color)
        own(owner, polygon, number)


def _place_figures(
    rng: np.random.Generator, width: int, height: int, sample: Sampler, layout: Layout
) -> list[Placed]:
    placed: list[Placed] = []

    def add(figure: Figure, origin: Array, size: float, kind: str) -> None:
        first = 1 + sum(len(other.figure.parts) for other in placed)
        placed.append(Placed(figure, origin, size, first, kind))

    if layout.crowds and rng.random() < 0.06:
        center = rng.uniform((0.15, 0.15), (0.85, 0.6)) * (width, height)
        for _ in range(rng.integers(7, 13)):
            origin = center + rng.normal(0, 1, 2) * (0.11 * width, 0.03 * height)
            add(sample(rng), origin, rng.uniform(0.12, 0.2) * height, "crowd")
    if layout.crowds and rng.random() < 0.15:
        for _ in range(rng.integers(1, 3)):
            origin = rng.uniform((0.05, 0.1), (0.95, 0.8)) * (width, height)
            add(sample(rng), origin, rng.uniform(0.07, 0.14) * height, "far")

    boxes: list[Array] = []
    for _ in range(1 + rng.choice(len(layout.numbers), p=layout.numbers)):
        figure = sample(rng)
        size = rng.uniform(*layout.sizes) * height
        low, high = (size * corner for corner in figure.extent(layout.parts))
        truncated = rng.random() < layout.truncated
        slack = 0.3 * (high - low) if truncated else np.full(2, -2.0)
        for _ in range(12):
            first, last = -low - slack, np.array([width, height]) - 1 - high + slack
            origin = rng.uniform(np.minimum(first, last), np.maximum(first, last))
            box = np.concatenate([origin + low, origin + high])
            if all(_overlap(box, other) < layout.overlap for other in boxes):
                boxes.append(box)
                add(figure, origin, size, "person")
                break
    return placed


def _overlap(box: Array, other: Array) -> float:
    """Intersection over the smaller area of two boxes (x1, y1, x2, y2)."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
    return float(np.prod(np.maximum(sides, 0)) / smaller)
