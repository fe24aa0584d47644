"""A four-legged animal with AP-10K's 17 joints: trunk, neck, head, tail and jointed legs.

Animal frame at rest (the camera's, too): x to the animal's left, y down, z away from the camera, so
that it faces the camera. The origin is the middle of the trunk; the unit is the trunk's length.
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
    shade,
    solid,
)

_SIDES = (("L", 1.0), ("R", -1.0))
_LEG_JOINTS = {"F": ("Shoulder", "Elbow", "F_Paw"), "B": ("Hip", "Knee", "B_Paw")}
# Where a leg starts (beside the middle, below it, towards the tail), and how its bones hang at
# rest: degrees to the front.
_LEGS = {"F": ((0.13, 0.06, -0.42), (-14.0, 8.0)), "B": ((0.12, 0.04, 0.42), (22.0, -18.0))}


@dataclass(frozen=True)
class _Look:
    """Colours, and proportions as factors of a dog's."""

    coat: Color
    legs: Color
    nose: Color
    legs_length: float
    neck_length: float
    build: float


def sample_animal(rng: np.random.Generator) -> Figure:
    """Return a random animal that stands or walks, seen mostly from the side."""
    coat = sample_color(rng, (0.03, 0.13), (0.05, 0.7), (0.2, 0.95))
    look = _Look(
        coat=coat,
        legs=shade(coat, rng.uniform(0.6, 1.1)),
        nose=(25.0, 25.0, 30.0),
        legs_length=rng.uniform(0.75, 1.25),
        neck_length=rng.uniform(0.8, 1.5),
        build=rng.uniform(0.85, 1.2),
    )
    view = _sample_view(rng)
    joints, parts = _head_and_neck(view, look, rng)
    tail_root = view @ np.array([0.0, -0.12, 0.5])
    joints["Root of tail"] = Joint(tail_root, ("trunk", "tail"), ("trunk",))
    parts += [_trunk(view, look), _tail(view, tail_root, look, rng)]
    stride = rng.normal(0, 18)
    for end, diagonal in (("F", 1.0), ("B", -1.0)):
        for side, sign in _SIDES:
            swing = sign * diagonal * stride + rng.normal(0, 5)
            leg_joints, leg_parts = _leg(view, end, side, sign, swing, look, rng)
            joints |= leg_joints
            parts += leg_parts
    parts.sort(key=lambda part: -part.depth)  # the painter's algorithm
    return Figure(joints, tuple(parts))


def _sample_view(rng: np.random.Generator) -> Array:
    kind = rng.choice(3, p=[0.7, 0.2, 0.1])
    sign = rng.choice([-1.0, 1.0])
    yaw = (sign * rng.normal(75, 15), sign * rng.normal(25, 12), sign * rng.normal(130, 15))[kind]
    return rotation("z", rng.normal(0, 4)) @ rotation("x", rng.normal(-6, 5)) @ rotation("y", yaw)


def _trunk(view: Array, look: _Look) -> Part:
    balls = [((0.0, -0.02, -0.4), 0.17), ((0.0, 0.0, 0.05), 0.16), ((0.0, -0.02, 0.4), 0.15)]
    return solid("trunk", look.coat, [(view @ np.array(c), r) for c, r in balls], look.build)


def _tail(view: Array, root: Array, look: _Look, rng: np.random.Generator) -> Part:
    lift = rotation("y", rng.normal(0, 25)) @ rotation("x", rng.normal(10, 35))
    tip = root + view @ lift @ np.array([0.0, 0.12, rng.uniform(0.15, 0.4)])
    return solid("tail", look.legs, [(root, 0.04), (tip, 0.025)], look.build)


def _leg(
    view: Array,
    end: str,
    side: str,
    sign: float,
    swing: float,
    look: _Look,
    rng: np.random.Generator,
) -> tuple[dict[str, Joint], list[Part]]:
    """A leg of the front or back end; `swing` in degrees to the front."""
    (beside, below, along), hang = _LEGS[end]
    points = [view @ np.array([sign * beside, below, along])]
    for angle, length in zip(hang, (0.32, 0.34), strict=True):
        turn = view @ rotation("x", -(angle + swing + rng.normal(0, 4)))
        points.append(points[-1] + look.legs_length * length * turn[:, 1])
    upper, lower = f"{side}_{end}_upper", f"{side}_{end}_lower"
    toe = points[2] + view @ np.array([0.0, 0.0, -0.07])
    far = sign * view[2, 0] > 0.35  # the trunk does not show its upper joint then
    names = [f"{side}_{name}" for name in _LEG_JOINTS[end]]
    shown = ((upper,) if far else (upper, "trunk"), (upper, lower), (lower,))
    placed = ((upper, "trunk"), (upper, lower), (lower,))
    joints = {n: Joint(p, s, q) for n, p, s, q in zip(names, points, shown, placed, strict=True)}
    color = shade(look.legs, 0.75) if far else look.legs
    return joints, [
        solid(upper, color, [(points[0], 0.1), (points[1], 0.06)], look.build),
        solid(lower, color, [(points[1], 0.055), (points[2], 0.038), (toe, 0.035)], look.build),
    ]


def _head_and_neck(
    view: Array, look: _Look, rng: np.random.Generator
) -> tuple[dict[str, Joint], list[Part]]:
    base = view @ np.array([0.0, -0.12, -0.46])
    neck = view @ rotation("y", rng.normal(0, 12)) @ rotation("x", rng.normal(35, 20))
    skull_at = base - 0.32 * look.neck_length * neck[:, 1]
    skull = view @ rotation("y", rng.normal(0, 22)) @ rotation("x", rng.normal(-12, 12))

    def at(x: float, y: float, z: float) -> Array:
        return skull_at + skull @ np.array([x, y, z])

    nose = at(0, 0.05, -0.31)
    details: list[tuple[Array, Array, Color]] = []
    joints = {
        "Neck": Joint(base, ("neck", "trunk"), ("neck", "trunk")),
        "Nose": Joint(nose, ("head",), ("head",), hidden=skull[2, 2] < -0.35),
    }
    for side, sign in _SIDES:
        eye = at(sign * 0.085, -0.045, -0.1)
        hidden = eye[2] > skull_at[2]  # on the far side of the head
        joints[f"{side}_Eye"] = Joint(eye, ("head",), ("head",), hidden=hidden)
        if not hidden:
            details.append((eye[None], np.array([0.032]), (235.0, 240.0, 240.0)))
            details.append((eye[None], np.array([0.02]), (20.0, 20.0, 20.0)))
    if not joints["Nose"].hidden:
        details.append((nose[None], np.array([0.035]), look.nose))
    balls = [(at(0, 0, 0), 0.13), (at(0, 0.06, -0.26), 0.06)]
    head = replace(solid("head", look.coat, balls, 1.0), details=tuple(details))
    ears = [
        solid(
            f"{side}_ear",
            shade(look.coat, 0.6),
            [(at(sign * 0.08, -0.08, 0.03), 0.05), (at(sign * 0.12, -0.22, 0.04), 0.018)],
            1.0,
        )
        for side, sign in _SIDES
    ]
    return joints, [
        solid("neck", look.coat, [(base, 0.13), (skull_at, 0.085)], look.build),
        head,
        *ears,
    ]
