"""What every figure is made of: solids that are painted and joints that are annotated.

Frame: x to the right of the image, y down, z away from the camera; the projection is orthographic.
Lengths are in the figure's own unit (a person's height, a hand's length); angles in degrees.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Color = tuple[float, float, float]  # blue, green, red in 0..255, as OpenCV paints
Range = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """The convex hull of some balls; `details` (centres, radii, colour) are painted on top."""

    name: str
    centers: Array  # [balls, 3]
    radii: Array  # [balls]
    color: Color
    depth: float  # of its middle; what is nearer (less) is painted later
    details: tuple[tuple[Array, Array, Color], ...] = ()


@dataclass(frozen=True)
class Joint:
    """A place that can be annotated, and the parts that an annotator needs for it."""

    position: Array  # [3]
    shown_by: tuple[str, ...]  # visible where one of these parts is on top
    placed_by: tuple[str, ...]  # hidden but annotated while some of these parts can be seen
    hidden: bool = False  # never annotated, as a face joint on the head's far side


@dataclass(frozen=True)
class Figure:
    """A posed figure around its origin; parts from the farthest to the nearest."""

    joints: dict[str, Joint]
    parts: tuple[Part, ...]

    def extent(self, names: frozenset[str] | None = None) -> tuple[Array, Array]:
        """Return the lowest and highest x, y of these parts, or of all of them."""
        parts = [part for part in self.parts if names is None or part.name in names]
        lows = [part.centers[:, :2] - part.radii[:, None] for part in parts]
        highs = [part.centers[:, :2] + part.radii[:, None] for part in parts]
        return np.concatenate(lows).min(axis=0), np.concatenate(highs).max(axis=0)


def rotation(axis: str, degrees: float) -> Array:
    """Return the matrix that turns column vectors around an axis of the frame."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def sample_color(rng: np.random.Generator, hue: Range, saturation: Range, value: Range) -> Color:
    """Return a random colour; a hue above 1 goes round."""
    red, green, blue = colorsys.hsv_to_rgb(
        rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value)
    )
    return (255 * blue, 255 * green, 255 * red)


def sample_skin(rng: np.random.Generator) -> Color:
    """Return a random colour of skin."""
    return sample_color(rng, (0.04, 0.09), (0.35, 0.65), (0.45, 1.0))


def shade(color: Color, factor: float) -> Color:
    """Return the colour, darker or brighter."""
    return (
        min(255.0, color[0] * factor),
        min(255.0, color[1] * factor),
        min(255.0, color[2] * factor),
    )


def solid(name: str, color: Color, balls: list[tuple[Array, float]], build: float) -> Part:
    """Return the part around these balls (centre, radius); `build` multiplies the radii."""
    centers = np.array([center for center, _ in balls])
    radii = build * np.array([radius for _, radius in balls])
    return Part(name, centers, radii, color, float(centers[:, 2].mean()))
