"""What follows from the names of keypoints, in all usual spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpose.config.keypoint_names import (
    UNIFORM_SIGMA,
    flip_pairs,
    joint_of,
    says_nothing,
    sigmas,
    upper_body,
)
from sdpose.config.schema import preset
from sdpose.config.schema.skeleton import coco_sigmas

# Of a keypoint `x`: (left, right).
SPELLINGS = {
    "left_x": lambda x: (f"left_{x}", f"right_{x}"),
    "l_x": lambda x: (f"l_{x}", f"r_{x}"),
    "L_X": lambda x: (f"L_{x.upper()}", f"R_{x.upper()}"),
    "x_l": lambda x: (f"{x}_l", f"{x}_r"),
    "x_left": lambda x: (f"{x}_left", f"{x}_right"),
    "LeftX": lambda x: (f"Left{x.title()}", f"Right{x.title()}"),
    "leftX": lambda x: (f"left{x.title()}", f"right{x.title()}"),
    "LX": lambda x: (f"L{x.title()}", f"R{x.title()}"),
    "XL": lambda x: (f"{x.title()}L", f"{x.title()}R"),
    "Lx": lambda x: (f"L{x}", f"R{x}"),
    "lx": lambda x: (f"l{x}", f"r{x}"),
    "leftx": lambda x: (f"left{x}", f"right{x}"),
    "xleft": lambda x: (f"{x}left", f"{x}right"),
    "LEFT X": lambda x: (f"LEFT {x.upper()}", f"RIGHT {x.upper()}"),
    "left-x": lambda x: (f"left-{x}", f"right-{x}"),
    "x (left)": lambda x: (f"{x} (left)", f"{x} (right)"),
    "x.L": lambda x: (f"{x}.L", f"{x}.R"),
    "lt_x": lambda x: (f"lt_{x}", f"rt_{x}"),
    "왼쪽 x": lambda x: (f"왼쪽 {x}", f"오른쪽 {x}"),
    "왼x": lambda x: (f"왼{x}", f"오른{x}"),
    "x(좌)": lambda x: (f"{x}(좌)", f"{x}(우)"),
    "좌측x": lambda x: (f"좌측{x}", f"우측{x}"),
    "左x": lambda x: (f"左{x}", f"右{x}"),
}
PARTS = ("eye", "ear", "knee", "paw", "antenna", "wheel", "pinky1", "눈", "무릎")
MIDDLE = ("nose", "neck", "root", "lip", "leg", "rib", "tail", "cleft palate", "upright", "코")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("part", PARTS)
def test_every_spelling_of_a_pair(spelling: str, part: str) -> None:
    if spelling == "xleft" and part[-1].isdigit():
        part = part[:-1]
    left, right = SPELLINGS[spelling](part)
    assert flip_pairs([right, "nose", left]) == ([(left, right)], [])


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, unique=True),
    st.lists(st.sampled_from(MIDDLE), unique=True),
    st.sampled_from([s for s in SPELLINGS if s != "xleft"]),
    st.randoms(use_true_random=False),
)
def test_pairs_of_a_whole_skeleton(parts, middle, spelling, random) -> None:
    expected = {SPELLINGS[spelling](part) for part in parts}
    names = [*middle, *(name for pair in expected for name in pair)]
    random.shuffle(names)
    pairs, alone = flip_pairs(names)
    assert set(pairs) == expected
    assert alone == []
    order = [min(map(names.index, pair)) for pair in pairs]
    assert order == sorted(order)


@given(st.lists(st.text(min_size=1, max_size=12), max_size=12))
def test_any_names_get_pairs_that_are_an_involution(names: list[str]) -> None:
    pairs, alone = flip_pairs(names)
    members = [name for pair in pairs for name in pair]
    assert len(members) == len(set(members))
    assert set(members) | set(alone) <= set(names)
    assert not set(members) & set(alone)
    values, uniform = sigmas(names, coco_sigmas())
    assert len(values) == len(names)
    assert all(v == UNIFORM_SIGMA for n, v in zip(names, values, strict=True) if n in uniform)
    upper, unknown = upper_body(names)
    assert not set(upper) & set(unknown)


@pytest.mark.parametrize(
    ("names", "alone"),
    [
        (["left_eye", "nose"], ["left_eye"]),
        (["left_eye", "right_ear"], ["left_eye", "right_ear"]),
        (["left_eye", "l_eye", "right_eye"], ["left_eye", "l_eye", "right_eye"]),
        (["L1", "R1", "L2"], ["L2"]),
        (["왼눈", "코"], ["왼눈"]),
    ],
)
def test_names_without_a_partner_are_said(names: list[str], alone: list[str]) -> None:
    assert flip_pairs(names)[1] == alone


@pytest.mark.parametrize(
    "names", [["L1", "L2", "L5"], ["rib", "lip", "leg", "root"], ["cleft", "bright"]]
)
def test_words_that_begin_or_end_like_a_side(names: list[str]) -> None:
    assert flip_pairs(names) == ([], [])


def test_two_sides_in_a_name_are_both_mirrored() -> None:
    names = ["left_eye_left", "left_eye_right", "right_eye_left", "right_eye_right"]
    assert flip_pairs(names) == ([(names[0], names[3]), (names[1], names[2])], [])


@pytest.mark.parametrize("name", ["coco", "crowdpose", "mpii", "ap10k", "hand21"])
def test_the_names_of_a_preset_say_its_pairs(name: str) -> None:
    skeleton = preset(name)
    pairs, alone = flip_pairs(skeleton.keypoints)
    assert (set(pairs), alone) == (set(skeleton.flip_pairs), [])


@pytest.mark.parametrize("name", ["coco", "crowdpose", "mpii", "ap10k", "coco_wholebody"])
def test_the_names_of_a_preset_say_its_upper_half(name: str) -> None:
    skeleton = preset(name)
    assert upper_body(skeleton.keypoints) == (list(skeleton.upper_body), [])


def test_sigmas_are_cocos_where_the_name_is() -> None:
    known = coco_sigmas()
    names = ["L_Eye", "오른쪽 어깨", "tail", "knee", "left_hip 1", "left_hip 2"]
    values, uniform = sigmas(names, known)
    assert values == [known["left_eye"], known["right_shoulder"], *[UNIFORM_SIGMA] * 4]
    assert uniform == names[2:]


def test_halves_of_animals_and_unknown_parts() -> None:
    names = ["L_F_Paw", "L_B_Paw", "front_left_knee", "hind_left_knee", "Withers", "TailBase"]
    assert upper_body([*names, "hook"]) == (["L_F_Paw", "front_left_knee", "Withers"], ["hook"])


def test_other_spellings_of_a_joint() -> None:
    assert joint_of("오른쪽 무릎") == "right_knee"
    assert says_nothing(["1", "2"])
