"""An articulated person: bones with joint limits, poses, clothes and the solids that make the body.

Body frame at rest (the camera's, too): x to the person's left, y down, z away from the camera, so
that a person who faces the camera has the left hand on the right of the image. Lengths are in
body heights; angles in degrees. The projection is orthographic.

Left and right are told apart as on photographs: by the face, the shirt's front, the shoes and by
what hides what. There is no colour code for a side, because a mirrored image would contradict it
(flip augmentation and flip test exchange left and right joints, not colours).
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdpose.skeleton import JOINT_NAMES

Array = npt.NDArray[np.float64]
Color = tuple[float, float, float]  # blue, green, red in 0..255, as OpenCV paints
Range = tuple[float, float]

# ------------------------------------------------------------------------------------ proportions

THIGH, SHIN, FOOT = 0.245, 0.235, 0.11
UPPER_ARM, FOREARM, HAND = 0.165, 0.145, 0.045
SPINE, NECK = 0.285, 0.055
HIP_HALF_WIDTH, SHOULDER_HALF_WIDTH = 0.062, 0.112
HEAD_RADIUS = 0.066

# Anatomical limits of every angle; a sampled pose is clipped to them.
LIMITS: dict[str, Range] = {
    "spine_flexion": (-15, 50),
    "spine_side": (-20, 20),
    "spine_twist": (-30, 30),
    "head_flexion": (-25, 35),
    "head_side": (-25, 25),
    "head_turn": (-65, 65),
    "shoulder_flexion": (-45, 170),
    "shoulder_abduction": (-5, 165),
    "shoulder_twist": (-60, 80),
    "elbow_flexion": (0, 140),
    "hip_flexion": (-25, 110),
    "hip_abduction": (-5, 45),
    "knee_flexion": (0, 135),
}

# Mean and standard deviation of the angles that a pose sets; "lead" and "trail" are the two sides,
# dealt out to left and right at random.
_TRUNK: dict[str, Range] = {
    "spine_flexion": (3, 5),
    "spine_side": (0, 5),
    "spine_twist": (0, 8),
    "head_flexion": (2, 9),
    "head_side": (0, 7),
    "head_turn": (0, 20),
}
_ARM: dict[str, Range] = {
    "shoulder_flexion": (3, 13),
    "shoulder_abduction": (14, 9),
    "shoulder_twist": (10, 20),
    "elbow_flexion": (18, 18),
}
_LEG: dict[str, Range] = {"hip_flexion": (2, 5), "hip_abduction": (6, 4), "knee_flexion": (4, 5)}


@dataclass(frozen=True)
class PoseFamily:
    """A kind of pose: angles that differ from standing, as (mean, standard deviation)."""

    probability: float
    trunk: dict[str, Range]
    lead: dict[str, Range]
    trail: dict[str, Range]
    lying: bool = False


_RAISED: dict[str, Range] = {
    "shoulder_flexion": (60, 50),
    "shoulder_abduction": (60, 40),
    "elbow_flexion": (35, 30),
}
_SEATED: dict[str, Range] = {
    "shoulder_flexion": (30, 15),
    "elbow_flexion": (50, 25),
    "hip_flexion": (82, 9),
    "hip_abduction": (12, 7),
    "knee_flexion": (82, 12),
}
POSES: dict[str, PoseFamily] = {
    "standing": PoseFamily(0.42, {}, {}, {}),
    "walking": PoseFamily(
        0.22,
        {"spine_flexion": (6, 4)},
        {"shoulder_flexion": (-24, 9), "hip_flexion": (26, 9), "knee_flexion": (12, 8)},
        {
            "shoulder_flexion": (28, 10),
            "elbow_flexion": (35, 20),
            "hip_flexion": (-14, 6),
            "knee_flexion": (26, 14),
        },
    ),
    "reaching": PoseFamily(0.12, {}, _RAISED, {}),
    "arms up": PoseFamily(0.05, {}, _RAISED, _RAISED),
    "sitting": PoseFamily(0.13, {"spine_flexion": (8, 8)}, _SEATED, _SEATED),
    "lying": PoseFamily(
        0.06,
        {},
        {"hip_flexion": (20, 18), "knee_flexion": (28, 20), "shoulder_abduction": (40, 35)},
        {"hip_flexion": (8, 9), "knee_flexion": (12, 10), "shoulder_abduction": (25, 20)},
        lying=True,
    ),
}

# ------------------------------------------------------------------------------------------ parts

SIDES = ("left", "right")
PARTS = (
    "torso",
    "pelvis",
    "neck",
    "head",
    *(
        f"{side}_{part}"
        for side in SIDES
        for part in ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
    ),
)
PART_INDEX = {name: index for index, name in enumerate(PARTS)}
NUM_PARTS = len(PARTS)


@dataclass(frozen=True)
class Part:
    """The convex hull of some balls; `details` (centres, radii, colour) are painted on top."""

    name: str
    centers: Array  # [balls, 3]
    radii: Array  # [balls]
    color: Color
    details: tuple[tuple[Array, Array, Color], ...] = ()


@dataclass(frozen=True)
class Figure:
    """A posed person, in body heights around the pelvis.

    joints: [17, 3]. face_hidden: [17]; face joints on the far side of the head. far: [17];
    shoulders and hips on the far side of the trunk. parts: from the farthest to the nearest.
    """

    joints: Array
    face_hidden: npt.NDArray[np.bool_]
    far: npt.NDArray[np.bool_]
    parts: tuple[Part, ...]


def _rotation(axis: str, degrees: float) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _color(rng: np.random.Generator, hue: Range, saturation: Range, value: Range) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(
        rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value)
    )
    return (255 * blue, 255 * green, 255 * red)


def shade(color: Color, factor: float) -> Color:
    return (
        min(255.0, color[0] * factor),
        min(255.0, color[1] * factor),
        min(255.0, color[2] * factor),
    )


def _sample_angles(rng: np.random.Generator) -> tuple[dict[str, float], bool]:
    """Angles of one random pose by name ("left_elbow_flexion"), and whether the person lies."""
    names = list(POSES)
    family = POSES[names[rng.choice(len(names), p=[POSES[n].probability for n in names])]]

    def draw(name: str, mean_std: Range) -> float:
        low, high = LIMITS[name]
        return min(max(rng.normal(*mean_std), low), high)

    angles = {name: draw(name, value) for name, value in (_TRUNK | family.trunk).items()}
    lead, trail = SIDES if rng.random() < 0.5 else SIDES[::-1]
    for side, changes in ((lead, family.lead), (trail, family.trail)):
        for name, value in (_ARM | _LEG | changes).items():
            angles[f"{side}_{name}"] = draw(name, value)
    return angles, family.lying


def _sample_view(rng: np.random.Generator, lying: bool) -> Array:
    """How the whole body is turned towards the camera: from the front half the time."""
    kind = rng.choice(3, p=[0.65, 0.15, 0.2])
    sign = rng.choice([-1.0, 1.0])
    yaw = (rng.normal(0, 18), rng.normal(180, 18), sign * rng.normal(75, 15))[kind]
    pitch = rng.normal(-4, 5)  # the camera looks down a little
    roll = sign * rng.normal(85, 12) if lying else rng.normal(0, 4)
    return _rotation("z", roll) @ _rotation("x", pitch) @ _rotation("y", yaw)


def sample_figure(rng: np.random.Generator) -> Figure:
    """A random person in a random pose, seen from a random side, in random clothes."""
    angles, lying = _sample_angles(rng)
    view = _sample_view(rng, lying)
    build = rng.uniform(0.95, 1.45)  # how stout
    limbs = rng.uniform(0.95, 1.05)
    head_size = rng.uniform(0.95, 1.3) * HEAD_RADIUS

    skin = _color(rng, (0.04, 0.09), (0.35, 0.65), (0.45, 1.0))
    hair = _color(rng, (0.02, 0.13), (0.3, 0.8), (0.05, 0.5))
    shirt = _color(rng, (0, 1), (0.6, 1.0), (0.5, 1.0))
    trousers = _color(rng, (0.5, 0.85), (0.35, 0.9), (0.15, 0.6))
    shoes = _color(rng, (0, 1), (0.3, 0.9), (0.1, 0.95))
    sleeve = skin if rng.random() < 0.5 else shade(shirt, 0.92)
    trouser_leg = skin if rng.random() < 0.25 else shade(trousers, 0.92)
    trim = shade(shirt, 1.6 if sum(shirt) < 360 else 0.45)

    joints = np.zeros((len(JOINT_NAMES), 3))
    far = np.zeros(len(JOINT_NAMES), dtype=bool)
    parts: list[Part] = []

    def add(name: str, balls: list[tuple[Array, float]], color: Color) -> None:
        centers, radii = zip(*balls, strict=True)
        parts.append(Part(name, np.array(centers), build * np.array(radii), color))

    def set_joint(name: str, position: Array) -> None:
        joints[JOINT_NAMES.index(name)] = position

    spine = (
        view
        @ _rotation("y", angles["spine_twist"])
        @ _rotation("z", angles["spine_side"])
        @ _rotation("x", -angles["spine_flexion"])
    )
    pelvis = np.zeros(3)
    neck_base = spine @ np.array([0.0, -SPINE, 0.0])

    for side, sign in (("left", 1.0), ("right", -1.0)):
        flexion, abduction = angles[f"{side}_hip_flexion"], angles[f"{side}_hip_abduction"]
        hip = view @ np.array([sign * HIP_HALF_WIDTH, 0, 0])
        thigh = view @ _rotation("z", -sign * abduction) @ _rotation("x", -flexion)
        knee = hip + limbs * THIGH * thigh[:, 1]
        shin = thigh @ _rotation("x", angles[f"{side}_knee_flexion"])
        ankle = knee + limbs * SHIN * shin[:, 1]
        heel = ankle + 0.03 * shin[:, 1]
        toe = heel - FOOT * shin[:, 2]
        add(f"{side}_thigh", [(hip, 0.06), (knee, 0.045)], trousers)
        add(f"{side}_shin", [(knee, 0.043), (ankle, 0.028)], trouser_leg)
        add(f"{side}_foot", [(heel, 0.026), (toe, 0.02)], shoes)

        flexion, abduction = (
            angles[f"{side}_shoulder_flexion"],
            angles[f"{side}_shoulder_abduction"],
        )
        shoulder = neck_base + spine @ np.array([sign * SHOULDER_HALF_WIDTH, 0.012, 0])
        upper_arm = (
            spine
            @ _rotation("z", -sign * abduction)
            @ _rotation("x", -flexion)
            @ _rotation("y", sign * angles[f"{side}_shoulder_twist"])
        )
        elbow = shoulder + limbs * UPPER_ARM * upper_arm[:, 1]
        forearm = upper_arm @ _rotation("x", -angles[f"{side}_elbow_flexion"])
        wrist = elbow + limbs * FOREARM * forearm[:, 1]
        fingers = wrist + HAND * forearm[:, 1]
        add(f"{side}_upper_arm", [(shoulder, 0.04), (elbow, 0.032)], shade(shirt, 0.92))
        add(f"{side}_forearm", [(elbow, 0.031), (wrist, 0.022)], sleeve)
        add(f"{side}_hand", [(wrist, 0.021), (fingers, 0.024)], skin)

        for joint, position in (
            ("hip", hip),
            ("knee", knee),
            ("ankle", ankle),
            ("shoulder", shoulder),
            ("elbow", elbow),
            ("wrist", wrist),
        ):
            set_joint(f"{side}_{joint}", position)
        far[JOINT_NAMES.index(f"{side}_hip")] = sign * view[2, 0] > 0.5
        far[JOINT_NAMES.index(f"{side}_shoulder")] = sign * spine[2, 0] > 0.5

    # The trunk has depth: a ball at each corner, its front carries the trim.
    inset = SHOULDER_HALF_WIDTH - 0.02
    add(
        "torso",
        [(neck_base + spine @ np.array([s * inset, 0.03, 0]), 0.052) for s in (1.0, -1.0)]
        + [(spine @ np.array([s * 0.055, -0.04, 0]), 0.055) for s in (1.0, -1.0)],
        shirt,
    )
    add(
        "pelvis",
        [(view @ np.array([s * 0.048, -0.01, 0]), 0.06) for s in (1.0, -1.0)]
        + [(pelvis + spine @ np.array([0, -0.05, 0]), 0.055)],
        trousers,
    )
    if spine[2, 2] > 0.15:  # the shirt's front can be seen
        front = spine @ np.array([0, 0, -0.05 * build])
        placket = (
            np.array([neck_base + front + 0.02 * spine[:, 1], front - 0.05 * spine[:, 1]]),
            np.array([0.014, 0.01]),
            trim,
        )
        collar = (
            np.array([neck_base + front + s * 0.03 * spine[:, 0] for s in (1.0, -1.0)]),
            np.array([0.016, 0.016]),
            trim,
        )
        torso = parts[-2]
        parts[-2] = Part(torso.name, torso.centers, torso.radii, torso.color, (placket, collar))

    turn = (
        _rotation("y", angles["head_turn"])
        @ _rotation("z", angles["head_side"])
        @ _rotation("x", -angles["head_flexion"])
    )
    skull = spine @ turn
    skull_center = neck_base + spine @ np.array([0, -NECK, 0]) + skull @ [0, -head_size, -0.012]
    parts.append(
        Part(
            "neck",
            np.array([neck_base, skull_center]),
            build * np.array([0.034, 0.03]),
            shade(skin, 0.85),
        )
    )
    head, face_hidden, face = _head(skull, skull_center, head_size, skin, hair)
    for name, position in face.items():
        set_joint(name, position)
    # Painter's algorithm; the neck must not cover the torso's collar or the head's chin.
    parts.sort(key=lambda part: -float(part.centers[:, 2].mean()))
    parts.append(head) if skull_center[2] < neck_base[2] + 0.15 else parts.insert(0, head)
    return Figure(joints, face_hidden, far, tuple(parts))


def _head(
    skull: Array, center: Array, radius: float, skin: Color, hair: Color
) -> tuple[Part, npt.NDArray[np.bool_], dict[str, Array]]:
    """The head with hair and face; which of the 17 joints it hides; the five face joints."""

    def at(x: float, y: float, z: float) -> Array:
        return center + radius * (skull @ np.array([x, y, z]))

    joints = {
        "nose": at(0, 0.15, -1.05),
        "left_eye": at(0.4, -0.15, -0.88),
        "right_eye": at(-0.4, -0.15, -0.88),
        "left_ear": at(0.95, 0.02, 0.1),
        "right_ear": at(-0.95, 0.02, 0.1),
    }
    forward = -float(skull[2, 2])  # depth of the gaze: -1 into the camera
    depth = {name: float(joint[2] - center[2]) / radius for name, joint in joints.items()}
    hidden = {
        "nose": forward > 0.2,
        "left_eye": depth["left_eye"] > -0.2,
        "right_eye": depth["right_eye"] > -0.2,
        "left_ear": depth["left_ear"] > 0.45,
        "right_ear": depth["right_ear"] > 0.45,
    }
    details: list[tuple[Array, Array, Color]] = []

    def add(points: list[Array], radii: list[float], color: Color) -> None:
        details.append((np.array(points), radius * np.array(radii), color))

    hair_cap = ([at(0, -0.35, 0.3), at(0, 0.0, 0.45)], [0.98, 0.8], hair)
    face_of_skull = ([at(0, -0.2, -0.05), at(0, 0.55, -0.15)], [0.95, 0.68], skin)
    faces_camera = forward < -0.35
    for item in (hair_cap, face_of_skull) if faces_camera else (face_of_skull, hair_cap):
        add(*item)
    for side in SIDES:
        if not hidden[f"{side}_ear"]:
            add([joints[f"{side}_ear"]], [0.24], shade(skin, 0.8))
        if not hidden[f"{side}_eye"]:
            add([joints[f"{side}_eye"]], [0.21], (245.0, 245.0, 245.0))
            add([joints[f"{side}_eye"]], [0.12], (30.0, 20.0, 20.0))
    if forward < -0.1:
        add([at(0.28, 0.65, -0.8), at(-0.28, 0.65, -0.8)], [0.08, 0.08], (60.0, 50.0, 140.0))
    if not hidden["nose"]:
        add([at(0, -0.05, -0.95), joints["nose"]], [0.08, 0.17], shade(skin, 0.72))
    base = np.array([at(0, -0.2, 0.0), at(0, 0.55, -0.1)])
    part = Part("head", base, radius * np.array([1.0, 0.7]), hair, tuple(details))
    hidden_K = np.array([hidden.get(name, False) for name in JOINT_NAMES])
    return part, hidden_K, joints
