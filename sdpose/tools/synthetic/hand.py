"""A hand with 21 joints: forearm, palm and five fingers that bend, seen from any side.

Hand frame at rest: the palm faces the camera, the fingers point up and the thumb to the right, as
of a right hand; a left hand is its mirror image. The origin is the wrist; the unit is the length
from there to the tip of the middle finger.

Nails and knuckles show the back of a hand, creases the palm. No colour tells the fingers apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sdpose.tools.synthetic.solids import (
    Array,
    Color,
    Figure,
    Joint,
    Part,
    rotation,
    sample_color,
    sample_skin,
    shade,
    solid,
)


@dataclass(frozen=True)
class _Finger:
    """base: of its first joint; lengths of the bones from there; radii at the joints; splay: its
    angle to the middle of the hand, degrees."""

    base: tuple[float, float]
    lengths: tuple[float, float, float]
    radii: tuple[float, float, float, float]
    splay: float


_FINGERS = {
    "thumb": _Finger((0.10, -0.10), (0.23, 0.17, 0.14), (0.075, 0.058, 0.05, 0.04), 42),
    "forefinger": _Finger((0.145, -0.46), (0.23, 0.14, 0.11), (0.053, 0.047, 0.042, 0.034), 7),
    "middle_finger": _Finger((0.035, -0.48), (0.26, 0.16, 0.11), (0.053, 0.047, 0.042, 0.034), 0),
    "ring_finger": _Finger((-0.075, -0.455), (0.24, 0.15, 0.11), (0.05, 0.045, 0.04, 0.033), -7),
    "pinky_finger": _Finger((-0.17, -0.40), (0.18, 0.11, 0.10), (0.045, 0.04, 0.035, 0.029), -16),
}
_BONES = ("proximal", "middle", "distal")
_THICKNESS = 0.05  # of the palm, to either side
PALM, FOREARM = "palm", "forearm"
ANNOTATED_PARTS = frozenset({PALM, *(f"{name}_{bone}" for name in _FINGERS for bone in _BONES)})

# Probability, then mean and standard deviation of how far each finger is bent (0 straight, 1 fist),
# from the thumb on.
_GESTURES: tuple[tuple[float, tuple[tuple[float, float], ...]], ...] = (
    (0.45, ((0.1, 0.15),) * 5),  # open
    (0.2, ((0.35, 0.15),) * 5),  # relaxed
    (0.15, ((0.7, 0.2), (0.05, 0.1), (0.85, 0.1), (0.9, 0.1), (0.9, 0.1))),  # pointing
    (0.1, ((0.75, 0.15), (0.05, 0.1), (0.05, 0.1), (0.85, 0.1), (0.9, 0.1))),  # two fingers
    (0.1, ((0.6, 0.2),) + ((0.9, 0.1),) * 4),  # fist
)
_FLEXION = (80.0, 95.0, 65.0)  # of a finger's joints in a fist, degrees
_THUMB_FLEXION = (25.0, 45.0, 60.0)


def sample_hand(rng: np.random.Generator) -> Figure:
    """Return a random left or right hand in a random gesture, seen from a random side."""
    frame = _sample_view(rng)
    if rng.random() < 0.5:
        frame = frame @ np.diag([-1.0, 1.0, 1.0])
    back = frame[2, 2] < 0  # the back of the hand faces the camera
    skin, build = sample_skin(rng), rng.uniform(0.9, 1.15)
    gesture = _GESTURES[rng.choice(len(_GESTURES), p=[share for share, _ in _GESTURES])][1]
    spread = rng.uniform(0.6, 1.6)
    positions = {"wrist": np.zeros(3)}
    parts: list[Part] = []
    for (name, finger), (mean, deviation) in zip(_FINGERS.items(), gesture, strict=True):
        bend = float(np.clip(rng.normal(mean, deviation), 0, 1))
        chain = _chain(name, finger, bend, spread, rng)
        points = [frame @ point for point in chain.points]
        positions |= {f"{name}{k + 1}": point for k, point in enumerate(points)}
        for k, bone in enumerate(_BONES):
            balls = [(points[k], finger.radii[k]), (points[k + 1], finger.radii[k + 1])]
            parts.append(solid(f"{name}_{bone}", skin, balls, build))
        if frame[2] @ chain.back < -0.2:
            parts[-1] = _with_nail(parts[-1], frame @ chain.back)
    parts += [_palm(frame, skin, build, back=back), _forearm(frame, rng, skin, build)]
    parts.sort(key=lambda part: -part.depth)  # the painter's algorithm
    joints = {name: _joint(name, position) for name, position in positions.items()}
    return Figure(joints, tuple(parts))


def _sample_view(rng: np.random.Generator) -> Array:
    """How the hand is turned: palm or back to the camera, fingers mostly upwards."""
    yaw = rng.normal(180 * rng.integers(2), 28)
    pitch = rng.normal(0, 18)
    roll = rng.normal(0, 40)
    return rotation("z", roll) @ rotation("x", pitch) @ rotation("y", yaw)


@dataclass(frozen=True)
class _Chain:
    """Four joints of a finger, and the direction in which its nail faces; hand frame."""

    points: list[Array]
    back: Array


def _chain(
    name: str, finger: _Finger, bend: float, spread: float, rng: np.random.Generator
) -> _Chain:
    is_thumb = name == "thumb"
    splay = finger.splay * (1 if is_thumb else spread * (1 - bend)) + rng.normal(0, 3)
    direction = rotation("z", splay)
    if is_thumb:  # its nail faces sideways
        direction = direction @ rotation("y", 35.0)
    points = [np.array([*finger.base, -0.02 if is_thumb else 0.0])]
    flexions = _THUMB_FLEXION if is_thumb else _FLEXION
    for length, flexion in zip(finger.lengths, flexions, strict=True):
        angle = bend * flexion + rng.normal(0, 3)
        direction = direction @ rotation("x", angle)
        points.append(points[-1] - length * direction[:, 1])
    return _Chain(points, direction[:, 2])


def _with_nail(part: Part, back: Array) -> Part:
    """The last bone with a nail, which is seen foreshortened."""
    tip, radius = part.centers[1], part.radii[1]
    along = part.centers[0] - tip
    start = tip + 0.6 * radius * back
    nail = np.array([start, start + 0.35 * along])
    details = ((nail, np.full(2, 0.55 * radius), shade(part.color, 1.35)),)
    return replace(part, details=details)


def _palm(frame: Array, skin: Color, build: float, *, back: bool) -> Part:
    corners = [((0.06, -0.03), 0.075), ((-0.06, -0.03), 0.075)]
    corners += [(f.base, f.radii[0]) for name, f in _FINGERS.items() if name != "thumb"]
    balls = [(frame @ np.array([x, y, 0.0]), radius) for (x, y), radius in corners]
    palm = solid(PALM, skin, balls, build)
    outside = _THICKNESS if back else -_THICKNESS
    dark, details = shade(skin, 0.78), []
    if back:  # knuckles
        for name, finger in _FINGERS.items():
            if name != "thumb":
                center = frame @ np.array([*finger.base, outside])
                details.append((center[None], np.array([0.028]), dark))
    else:  # creases
        for line in (
            ((-0.19, -0.33), (0.1, -0.38)),
            ((-0.1, -0.2), (0.13, -0.31)),
            ((0.0, -0.05), (0.09, -0.27)),
        ):
            ends = np.array([frame @ np.array([x, y, outside]) for x, y in line])
            details.append((ends, np.full(2, 0.008), dark))
    return replace(palm, details=tuple(details))


def _forearm(frame: Array, rng: np.random.Generator, skin: Color, build: float) -> Part:
    sleeve = sample_color(rng, (0, 1), (0.3, 1.0), (0.2, 1.0)) if rng.random() < 0.5 else skin
    bend = rotation("z", rng.normal(0, 12)) @ rotation("x", rng.normal(0, 15))
    ends = [bend @ np.array([0.0, y, 0.0]) for y in (0.03, 0.9)]
    forearm = solid(FOREARM, sleeve, [(frame @ ends[0], 0.08), (frame @ ends[1], 0.13)], build)
    return replace(forearm, depth=10.0)  # behind the hand


def _joint(name: str, position: Array) -> Joint:
    if name == "wrist":
        return Joint(position, (PALM, FOREARM), (PALM,))
    finger, number = name[:-1], int(name[-1])
    parts = tuple(f"{finger}_{_BONES[k]}" for k in (number - 2, number - 1) if 0 <= k < 3)
    if number == 1:
        parts += (PALM,)
    return Joint(position, parts, parts)
