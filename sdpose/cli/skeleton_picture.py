"""Draw a skeleton as an SVG: its keypoints with their names, sides and limbs."""

from __future__ import annotations

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from sdpose.config.schema import Skeleton

SIZE, MARGIN = 640, 90  # pixels
MAX_LABELS = 40  # more names would cover each other: numbers then, and names as tooltips
# As in pictures of poses; colours that the colour-blind can tell apart (Okabe & Ito 2008).
COLOURS = {"left": "#e69f00", "right": "#56b4e9", "": "#009e73"}

Points = NDArray[np.float64]  # [K,2], x to the right and y down, any unit


def skeleton_svg(skeleton: Skeleton, pose: Points | None = None) -> str:
    """Draw a skeleton.

    Args:
        pose: where the keypoints are, NaN where unknown; default: a layout by the limbs.
    """
    points = _layout(skeleton) if pose is None else pose
    points = _fitted(_with_strays(points))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{SIZE}" height="{SIZE}" fill="#fff"/>',
    ]
    for a, b in skeleton.limb_indices:
        (x1, y1), (x2, y2) = points[a], points[b]
        side = skeleton.sides[a] if skeleton.sides[a] == skeleton.sides[b] else ""
        lines.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="3" '
            f'stroke="{COLOURS[side]}"/>'
        )
    for index, (name, (x, y)) in enumerate(zip(skeleton.keypoints, points, strict=True)):
        label = name if skeleton.num_keypoints <= MAX_LABELS else str(index)
        lines.append(
            f'<g><title>{index}: {escape(name)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="5" '
            f'fill="{COLOURS[skeleton.sides[index]]}" stroke="#141414"/>'
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(label)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _layout(skeleton: Skeleton) -> Points:
    """Lay out each group of connected keypoints, side by side; NaN for keypoints without limbs."""
    count = skeleton.num_keypoints
    distances = np.full((count, count), np.inf)
    np.fill_diagonal(distances, 0)
    for a, b in skeleton.limb_indices:
        distances[a, b] = distances[b, a] = 1
    for k in range(count):  # Floyd and Warshall's shortest paths
        distances = np.minimum(distances, distances[:, k, None] + distances[None, k])
    points = np.full((count, 2), np.nan)
    right = 0.0
    groups = {tuple(np.flatnonzero(row).tolist()) for row in np.isfinite(distances)}
    for group in sorted(groups, key=lambda group: (-len(group), group)):
        if len(group) > 1:
            placed = _layout_group(skeleton, list(group), distances[np.ix_(group, group)])
            low, high = placed.min(axis=0), placed.max(axis=0)
            points[list(group)] = placed - (low[0] - right, (low[1] + high[1]) / 2)
            right += high[0] - low[0] + 1
    return points


def _layout_group(skeleton: Skeleton, group: list[int], distances: NDArray[np.float64]) -> Points:
    """Classical scaling of the distances along the limbs.

    In a symmetric skeleton each axis of it is even or odd under the exchange of left and right: the
    odd ones are a keypoint's distance from the middle, drawn as x; the first even one is y.
    """
    centring = np.eye(len(group)) - 1 / len(group)
    values, vectors = np.linalg.eigh(-centring @ distances**2 @ centring / 2)
    axes = (vectors * np.sqrt(np.maximum(values, 0))).T[::-1]  # the longest first
    position = {k: i for i, k in enumerate(group)}
    mirror = [position.get(skeleton.flip_index[k], i) for i, k in enumerate(group)]
    # Who faces the camera has the left on the right of the picture.
    sign = np.array([{"left": 1, "right": -1}.get(skeleton.sides[k], 0) for k in group])
    upper = np.array([skeleton.is_upper[k] for k in group])
    odd = [axis for axis in axes if axis @ axis[mirror] < -0.9 * (axis @ axis)]
    even = [axis for axis in axes if axis @ axis[mirror] > 0.9 * (axis @ axis)]
    x, y = axes[0], axes[1]
    if odd and even:
        x, y = sign * np.linalg.norm(odd, axis=0), even[0]
    if upper.any() and not upper.all() and y[upper].mean() > y[~upper].mean():
        y = -y
    return np.stack([x, y], axis=1)


def _with_strays(points: Points) -> Points:
    """Put the keypoints whose place is unknown into rows below the others."""
    points = points.copy()
    strays = np.flatnonzero(np.isnan(points).any(axis=1))
    known = points[~np.isnan(points).any(axis=1)]
    (left, top), (right, bottom) = (
        (known.min(axis=0), known.max(axis=0)) if len(known) else ((0, 0), (1, 0))
    )
    columns = max(1, int(np.ceil(np.sqrt(2 * len(strays)))))
    width = max(right - left, bottom - top, 1e-6)
    for i, k in enumerate(strays):
        column, row = i % columns, i // columns
        points[k] = left + width * column / columns, bottom + width * (row + 1) / columns
    return points


def _fitted(points: Points) -> Points:
    """Scale the points into the picture, without distortion."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (SIZE - 2 * MARGIN) / max(float((high - low).max()), 1e-6)
    return (points - (low + high) / 2) * scale + SIZE / 2
