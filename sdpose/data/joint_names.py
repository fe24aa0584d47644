"""Check that the joints of a dataset are those of a skeleton, in the same order.

Flip pairs, half-body sets and sigmas are by position: with joints in another order, training
confuses left and right, and no loss curve shows it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Names of a joint in other tools, letters only; a side is put before or after it.
_PARTS = {
    "nose": ("nose", "코"),
    "eye": ("eye", "눈"),
    "ear": ("ear", "귀"),
    "shoulder": ("shoulder", "sho", "shldr", "어깨"),
    "elbow": ("elbow", "elb", "팔꿈치"),
    "wrist": ("wrist", "wri", "손목"),
    "hip": ("hip", "엉덩이", "골반"),
    "knee": ("knee", "kne", "무릎"),
    "ankle": ("ankle", "ank", "발목"),
}
_SIDES = {
    "left": ("left", "l", "lt", "왼쪽", "왼", "좌", "좌측"),
    "right": ("right", "r", "rt", "오른쪽", "오른", "우", "우측"),
}
_SPELLINGS = {alias: part for part, aliases in _PARTS.items() for alias in aliases} | {
    spelled: f"{side}_{part}"
    for part, aliases in _PARTS.items()
    for alias in aliases
    for side, words in _SIDES.items()
    for word in words
    for spelled in (word + alias, alias + word)
}


def joint_of(name: object) -> str:
    """Return COCO's name for any spelling of a joint; an unknown name in lower case.

    >>> [joint_of(name) for name in ("L_Eye", "Right-Hip", "lshoulder", "knee (left)", "head top")]
    ['left_eye', 'right_hip', 'left_shoulder', 'left_knee', 'head top']
    """
    return _SPELLINGS.get(_letters(name), str(name).strip().lower())


def same_joints(names: Sequence[object], keypoints: Sequence[str]) -> bool:
    """Return whether the names are those of the skeleton, in its order and any spelling."""
    return [joint_of(name) for name in names] == [joint_of(name) for name in keypoints]


def joint_names_problem(
    names: Sequence[object], keypoints: Sequence[str], preset: str | None
) -> str:
    """Return why the joints are not the skeleton's, with both lists; "" if they are.

    Without names, or with names that are only numbers, only their count is compared.

    Args:
        keypoints: of the skeleton.
        preset: the skeleton's name, if it is a shipped one.
    """
    whose = owner(preset)
    other = "a skeleton of their own (skeleton: auto takes the file's names)"
    if len(names) not in (0, len(keypoints)):
        what = f"{len(names)} keypoints, not {whose} {len(keypoints)}"
        remedy = f"they need {other}"
    elif same_joints(names, keypoints) or says_nothing(names):
        return ""
    elif sorted(map(joint_of, names)) == sorted(map(joint_of, keypoints)):
        what = f"{whose} keypoints in another order"
        remedy = (
            f"reorder the names, and the keypoints of every annotation, to {whose} order; or give "
            f"them {other}"
        )
    else:
        what = f"keypoints that are not {whose}"
        remedy = (
            f"they need {other}; if these are {whose} in {whose} order, give them {whose} names"
        )
    here = ", ".join(f"{name!s:.30}" for name in names[:50])
    expected, label = ", ".join(keypoints[:50]), whose.removesuffix("'s") + ":"
    return (
        f"the category has {what}: {remedy}\n"
        f"    {'found:':{len(label)}} {here}\n    {label:6} {expected}"
    )


def owner(preset: str | None) -> str:
    """Whose keypoints they are, for messages."""
    if preset is None:
        return "the experiment's"
    return {"coco": "COCO's", "crowdpose": "CrowdPose's", "mpii": "MPII's"}.get(
        preset, f"{preset}'s"
    )


def says_nothing(names: Sequence[object]) -> bool:
    """Return whether there are no names, or only names like "1" and "kp_12" that are numbered."""
    numbered = all(re.search(r"\d", str(name)) for name in names)
    return numbered and len({_letters(name) for name in names}) <= 1


def _letters(name: object) -> str:
    return re.sub(r"[\d\W_]+", "", unicodedata.normalize("NFC", str(name))).lower()
