"""Poses of the articulated figure: joint angles, their limits, and what people do with them.

Angles are in degrees; zero everywhere is standing upright with hanging arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdpose.tools.synthetic.solids import Range

SIDES = ("left", "right")

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


def sample_angles(rng: np.random.Generator) -> tuple[dict[str, float], bool]:
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
