"""An articulated person: bones, clothes and the solids that make the body.

Body frame at rest (the camera's, too): x to the person's left, y down, z away from the camera, so
that a person who faces the camera has the left hand on the right of the image. Lengths are in
body heights around the pelvis; angles in degrees.

Left and right are told apart as on photographs: by the face, the shirt's front, the shoes and by
what hides what. There is no colour code for a side, because a mirrored image would contradict it
(flip augmentation and flip test exchange left and right joints, not colours).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sdpose.tools.synthetic.poses import LIMITS, SIDES, sample_angles
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

# ------------------------------------------------------------------------------------ proportions

THIGH, SHIN, FOOT = 0.245, 0.235, 0.11
UPPER_ARM, FOREARM, HAND = 0.165, 0.145, 0.045
SPINE, NECK = 0.285, 0.055
HIP_HALF_WIDTH, SHOULDER_HALF_WIDTH = 0.062, 0.112
HEAD_RADIUS = 0.066

# The parts that show a joint: where another one lies on top of it, the joint is occluded.
_SHOWN_BY = {
    "shoulder": ("upper_arm",),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh",),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "foot"),
}
_TRUNK_SHOWS = {"shoulder": ("torso",), "hip": ("pelvis", "torso")}
# Of CrowdPose and MPII.
_MIDDLE = {
    "upper_neck": ("neck", "head"),
    "neck": ("neck", "torso"),
    "thorax": ("torso", "neck"),
    "pelvis": ("pelvis", "torso"),
}


def _sample_view(rng: np.random.Generator, lying: bool) -> Array:
    """How the whole body is turned towards the camera: mostly from the front."""
    kind = rng.choice(3, p=[0.65, 0.15, 0.2])
    sign = rng.choice([-1.0, 1.0])
    yaw = (rng.normal(0, 18), rng.normal(180, 18), sign * rng.normal(75, 15))[kind]
    pitch = rng.normal(-4, 5)  # the camera looks down a little
    roll = sign * rng.normal(85, 12) if lying else rng.normal(0, 4)
    return rotation("z", roll) @ rotation("x", pitch) @ rotation("y", yaw)


@dataclass(frozen=True)
class _Look:
    """A person's colours and proportions."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    sleeve: Color
    trouser_leg: Color
    build: float  # factor of all radii but the head's
    limbs: float  # factor of the limbs' lengths
    head_radius: float


def _sample_look(rng: np.random.Generator) -> _Look:
    skin = sample_skin(rng)
    shirt = sample_color(rng, (0, 1), (0.6, 1.0), (0.5, 1.0))
    trousers = sample_color(rng, (0.5, 0.85), (0.35, 0.9), (0.15, 0.6))
    return _Look(
        skin=skin,
        hair=sample_color(rng, (0.02, 0.13), (0.3, 0.8), (0.05, 0.5)),
        shirt=shirt,
        trousers=trousers,
        shoes=sample_color(rng, (0, 1), (0.3, 0.9), (0.1, 0.95)),
        sleeve=skin if rng.random() < 0.5 else shade(shirt, 0.92),
        trouser_leg=skin if rng.random() < 0.25 else shade(trousers, 0.92),
        build=rng.uniform(0.95, 1.45),
        limbs=rng.uniform(0.95, 1.05),
        head_radius=rng.uniform(0.95, 1.3) * HEAD_RADIUS,
    )


# Where the joints of a piece of the body are, and the solids that it is made of.
_Piece = tuple[dict[str, Array], list[Part]]


def sample_figure(rng: np.random.Generator) -> Figure:
    """A random person in a random pose, seen from a random side, in random clothes."""
    angles, lying = sample_angles(rng)
    view = _sample_view(rng, lying)
    look = _sample_look(rng)
    spine = (
        view
        @ rotation("y", angles["spine_twist"])
        @ rotation("z", angles["spine_side"])
        @ rotation("x", -angles["spine_flexion"])
    )
    skull = (
        spine
        @ rotation("y", angles["head_turn"])
        @ rotation("z", angles["head_side"])
        @ rotation("x", -angles["head_flexion"])
    )
    neck_base = spine @ np.array([0.0, -SPINE, 0.0])
    neck_top = neck_base - NECK * spine[:, 1]
    head_joints, head_parts, hidden = _head(skull, neck_base, neck_top, look)
    joints, parts = dict(head_joints), [*_trunk(view, spine, look), *head_parts]
    joints |= {
        "upper_neck": neck_top,
        "neck": neck_base,
        "thorax": spine @ np.array([0.0, 0.02 - SPINE, 0.0]),
        "pelvis": np.zeros(3),
    }
    far = set()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        own = {name: angles.get(f"{side}_{name}", 0.0) for name in LIMITS}
        shoulder = neck_base + spine @ np.array([sign * SHOULDER_HALF_WIDTH, 0.012, 0])
        hip = view @ np.array([sign * HIP_HALF_WIDTH, 0, 0])
        for piece in (_arm(own, sign, spine, shoulder, look), _leg(own, sign, view, hip, look)):
            joints |= {f"{side}_{name}": position for name, position in piece[0].items()}
            parts += [replace(part, name=f"{side}_{part.name}") for part in piece[1]]
        if sign * spine[2, 0] > 0.5:
            far.add(f"{side}_shoulder")
        if sign * view[2, 0] > 0.5:
            far.add(f"{side}_hip")
    parts.sort(key=lambda part: -part.depth)  # the painter's algorithm
    return Figure(
        joints={
            name: _joint(name, position, far=name in far, hidden=name in hidden)
            for name, position in joints.items()
        },
        parts=tuple(parts),
    )


def _joint(name: str, position: Array, *, far: bool, hidden: bool) -> Joint:
    """far: on the far side of the trunk, which does not show it then."""
    side, _, kind = name.partition("_")
    if kind not in _SHOWN_BY:
        parts = _MIDDLE.get(name, ("head",))
        return Joint(position, parts, parts, hidden)
    limb = tuple(f"{side}_{part}" for part in _SHOWN_BY[kind])
    trunk = _TRUNK_SHOWS.get(kind, ())
    return Joint(position, limb if far else limb + trunk, limb + trunk)


def _leg(angles: dict[str, float], sign: float, view: Array, hip: Array, look: _Look) -> _Piece:
    """A leg that hangs from `hip`; sign is 1 for the left one, -1 for the right one."""
    thigh = (
        view
        @ rotation("z", -sign * angles["hip_abduction"])
        @ rotation("x", -angles["hip_flexion"])
    )
    knee = hip + look.limbs * THIGH * thigh[:, 1]
    shin = thigh @ rotation("x", angles["knee_flexion"])
    ankle = knee + look.limbs * SHIN * shin[:, 1]
    heel = ankle + 0.03 * shin[:, 1]
    toe = heel - FOOT * shin[:, 2]
    return {"hip": hip, "knee": knee, "ankle": ankle}, [
        solid("thigh", look.trousers, [(hip, 0.06), (knee, 0.045)], look.build),
        solid("shin", look.trouser_leg, [(knee, 0.043), (ankle, 0.028)], look.build),
        solid("foot", look.shoes, [(heel, 0.026), (toe, 0.02)], look.build),
    ]


def _arm(
    angles: dict[str, float], sign: float, spine: Array, shoulder: Array, look: _Look
) -> _Piece:
    """An arm that hangs from `shoulder`; sign is 1 for the left one, -1 for the right one."""
    upper_arm = (
        spine
        @ rotation("z", -sign * angles["shoulder_abduction"])
        @ rotation("x", -angles["shoulder_flexion"])
        @ rotation("y", sign * angles["shoulder_twist"])
    )
    elbow = shoulder + look.limbs * UPPER_ARM * upper_arm[:, 1]
    forearm = upper_arm @ rotation("x", -angles["elbow_flexion"])
    wrist = elbow + look.limbs * FOREARM * forearm[:, 1]
    fingers = wrist + HAND * forearm[:, 1]
    shirt = shade(look.shirt, 0.92)
    return {"shoulder": shoulder, "elbow": elbow, "wrist": wrist}, [
        solid("upper_arm", shirt, [(shoulder, 0.04), (elbow, 0.032)], look.build),
        solid("forearm", look.sleeve, [(elbow, 0.031), (wrist, 0.022)], look.build),
        solid("hand", look.skin, [(wrist, 0.021), (fingers, 0.024)], look.build),
    ]


def _trunk(view: Array, spine: Array, look: _Look) -> list[Part]:
    """Torso (a ball at each corner) and pelvis; the front of the shirt carries a trim."""

    def along_spine(x: float, y: float, z: float = 0.0) -> Array:
        return spine @ np.array([x, y, z])

    torso = solid(
        "torso",
        look.shirt,
        [(along_spine(s * (SHOULDER_HALF_WIDTH - 0.02), 0.03 - SPINE), 0.052) for s in (1, -1)]
        + [(along_spine(s * 0.055, -0.04), 0.055) for s in (1, -1)],
        look.build,
    )
    if spine[2, 2] > 0.15:  # the front can be seen
        trim = shade(look.shirt, 1.6 if sum(look.shirt) < 360 else 0.45)
        depth = -0.05 * look.build
        placket = np.array([along_spine(0, 0.02 - SPINE, depth), along_spine(0, -0.05, depth)])
        collar = np.array([along_spine(s * 0.03, -SPINE, depth) for s in (1, -1)])
        details = (
            (placket, np.array([0.014, 0.01]), trim),
            (collar, np.array([0.016, 0.016]), trim),
        )
        torso = replace(torso, details=details)
    pelvis = solid(
        "pelvis",
        look.trousers,
        [(view @ np.array([s * 0.048, -0.01, 0]), 0.06) for s in (1, -1)]
        + [(along_spine(0, -0.05), 0.055)],
        look.build,
    )
    return [torso, pelvis]


def _head(
    skull: Array, neck_base: Array, neck_top: Array, look: _Look
) -> tuple[dict[str, Array], list[Part], set[str]]:
    """The joints of the head, the parts neck and head, and the joints on the head's far side."""
    radius, skin = look.head_radius, look.skin
    center = neck_top - radius * skull[:, 1] - 0.012 * skull[:, 2]

    def at(x: float, y: float, z: float) -> Array:
        return center + radius * (skull @ np.array([x, y, z]))

    joints = {
        "nose": at(0, 0.15, -1.05),
        "left_eye": at(0.4, -0.15, -0.88),
        "right_eye": at(-0.4, -0.15, -0.88),
        "left_ear": at(0.95, 0.02, 0.1),
        "right_ear": at(-0.95, 0.02, 0.1),
    }
    joints["top_head"] = joints["head_top"] = at(0, -1.15, 0)
    gaze = -float(skull[2, 2])  # -1: into the camera
    limit = {"nose": 0.2, "left_eye": -0.2, "right_eye": -0.2, "left_ear": 0.45, "right_ear": 0.45}
    hidden = {name for name in limit if joints[name][2] - center[2] > radius * limit[name]}
    details: list[tuple[Array, Array, Color]] = []

    def add(color: Color, points: list[Array], radii: list[float]) -> None:
        details.append((np.array(points), radius * np.array(radii), color))

    def add_hair() -> None:
        add(look.hair, [at(0, -0.35, 0.3), at(0, 0.0, 0.45)], [0.98, 0.8])

    if gaze < -0.35:
        add_hair()
    add(skin, [at(0, -0.2, -0.05), at(0, 0.55, -0.15)], [0.95, 0.68])
    if gaze >= -0.35:
        add_hair()
    for side in SIDES:
        if f"{side}_ear" not in hidden:
            add(shade(skin, 0.8), [joints[f"{side}_ear"]], [0.24])
        if f"{side}_eye" not in hidden:
            add((245.0, 245.0, 245.0), [joints[f"{side}_eye"]], [0.21])
            add((30.0, 20.0, 20.0), [joints[f"{side}_eye"]], [0.12])
    if gaze < -0.1:
        add((60.0, 50.0, 140.0), [at(0.28, 0.65, -0.8), at(-0.28, 0.65, -0.8)], [0.08, 0.08])
    if "nose" not in hidden:
        add(shade(skin, 0.72), [at(0, -0.05, -0.95), joints["nose"]], [0.08, 0.17])

    head = solid("head", look.hair, [(at(0, -0.2, 0.0), 1.0), (at(0, 0.55, -0.1), 0.7)], radius)
    neck = solid("neck", shade(skin, 0.85), [(neck_base, 0.034), (center, 0.03)], look.build)
    parts = [
        replace(neck, depth=head.depth + 1e-6),  # the head covers it, also from below
        replace(head, details=tuple(details)),
    ]
    return joints, parts, hidden
