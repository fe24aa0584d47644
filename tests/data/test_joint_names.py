"""Joints of other skeletons are never taken for COCO's."""

from __future__ import annotations

import unicodedata

import pytest

from sdpose.config.keypoint_names import says_nothing
from sdpose.config.schema import COCO
from sdpose.data.joint_names import joint_names_problem

KOREAN = (
    *("코", "왼쪽 눈", "오른쪽 눈", "왼쪽 귀", "오른쪽 귀", "왼쪽 어깨", "오른쪽 어깨"),
    *("왼쪽 팔꿈치", "오른쪽 팔꿈치", "왼쪽 손목", "오른쪽 손목", "왼쪽 골반", "오른쪽 골반"),
    *("왼쪽 무릎", "오른쪽 무릎", "왼쪽 발목", "오른쪽 발목"),
)
SHORT = [name.replace("left_", "l_").replace("right_", "r_") for name in COCO.keypoints]
# AP-10K: animals, 17 keypoints too.
ANIMAL = (
    *("L_Eye", "R_Eye", "Nose", "Neck", "Root of tail", "L_Shoulder", "L_Elbow", "L_F_Paw"),
    *("R_Shoulder", "R_Elbow", "R_F_Paw", "L_Hip", "L_Knee", "L_B_Paw", "R_Hip", "R_Knee"),
    "R_B_Paw",
)
OPENPOSE = [COCO.keypoints[i] for i in (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)]
BY_SIDE = [COCO.keypoints[0], *COCO.keypoints[1::2], *COCO.keypoints[2::2]]
MIRRORED = [COCO.keypoints[i] for i in (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)]


@pytest.mark.parametrize(
    "names",
    [
        [],
        COCO.keypoints,
        SHORT,
        [name.upper().replace("_", " ") for name in COCO.keypoints],
        [name.title().replace("_", "-") for name in COCO.keypoints],
        [name.replace("_", "") for name in SHORT],  # "lshoulder", "lear", "rear"
        ["_".join(reversed(name.split("_"))) for name in COCO.keypoints],
        [f"{number}. {name}" for number, name in enumerate(COCO.keypoints)],
        KOREAN,
        [unicodedata.normalize("NFD", name) for name in KOREAN],
        [str(number) for number in range(1, 18)],
        [f"kp_{number:02}" for number in range(17)],
    ],
)
def test_the_same_joints_in_other_spellings(names: list[str]) -> None:
    assert joint_names_problem(names, COCO.keypoints, "coco") == ""


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (OPENPOSE, "another order"),
        (BY_SIDE, "another order"),
        (MIRRORED, "another order"),
        ([SHORT[i] for i in range(16, -1, -1)], "another order"),
        (ANIMAL, "not COCO's"),
        ([*COCO.keypoints[:16], "right_foot"], "not COCO's"),
        ([*COCO.keypoints[:16], 3], "not COCO's"),
        (COCO.keypoints[:14], "14 keypoints"),
        ([str(number) for number in range(133)], "133 keypoints"),
    ],
)
def test_other_joints_are_refused_with_both_lists(names: list[object], reason: str) -> None:
    problem = joint_names_problem(names, COCO.keypoints, "coco")
    assert reason in problem.partition("\n")[0]
    assert f"found: {names[0]}" in problem
    assert "COCO:  nose, left_eye" in problem


def test_names_that_say_nothing() -> None:
    assert says_nothing([])
    assert says_nothing(["1", "2", "3"])
    assert says_nothing(["point 1", "Point-2"])
    assert not says_nothing(["nose1", "left_eye2"])
    assert not says_nothing(["nose"])
