"""What follows from the names of keypoints: spellings, left and right, sigmas, the upper body.

Nothing is guessed: what the names do not say is returned as such, for the caller to refuse.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

# COCO has no value for a keypoint that is not its own. Between those of its face (0.03) and of its
# body (0.08); AP with it is comparable within one dataset only.
UNIFORM_SIGMA = 0.05

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
    # CrowdPose's files say head, mmpose top_head for them and head_top for MPII.
    "top_head": ("head", "tophead", "headtop", "머리"),
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
    ['left_eye', 'right_hip', 'left_shoulder', 'left_knee', 'top_head']
    """
    return _SPELLINGS.get(_letters(name), str(name).strip().lower())


# Words that a side's letter before another joint spells: a side only where the other one is, too.
_ORDINARY = {"rear": "lear", "lear": "rear", "rank": "lank", "lank": "rank", "earl": "earr"}


def joints_of(names: Sequence[object]) -> list[str]:
    """Return COCO's names for those of one skeleton.

    Names that would be one joint stay apart ("left_eye 1", "left_eye 2"), and so do ordinary words.

    >>> joints_of(["rear", "L_Eye", "eye1", "eye2"]), joints_of(["rear", "lear"])
    (['rear', 'left_eye', 'eye1', 'eye2'], ['right_ear', 'left_ear'])
    """
    letters = [_letters(name) for name in names]
    joints = [joint_of(name) for name in names]
    count = Counter(joints)
    return [
        str(name).strip().lower()
        if count[joint] > 1 or (word in _ORDINARY and _ORDINARY[word] not in letters)
        else joint
        for name, word, joint in zip(names, letters, joints, strict=True)
    ]


def says_nothing(names: Sequence[object]) -> bool:
    """Return whether there are no names, or only names like "1" and "kp_12" that are numbered."""
    numbered = all(re.search(r"\d", str(name)) for name in names)
    return numbered and len({_letters(name) for name in names}) <= 1


def _letters(name: object) -> str:
    return re.sub(r"[\d\W_]+", "", unicodedata.normalize("NFC", str(name))).lower()


# ------------------------------------------------------------------------------- left and right


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_MIRROR = {"<": ">", ">": "<"}  # stand for left and right in a list of words
_SIDE_OF = dict.fromkeys(_set("left l lt lft 왼쪽 왼편 왼 좌측 좌 左側 左侧 左"), "<") | (
    dict.fromkeys(_set("right r rt rgt 오른쪽 오른편 오른 우측 우 右側 右侧 右"), ">")
)
# Glued to a word, as in "lefteye": no other word starts with these.
_PREFIX = re.compile("left|right|왼쪽|왼편|왼|좌측|오른쪽|오른편|오른|우측|左[側侧]?|右[側侧]?")
# Ordinary words start or end with these, too ("lip", "cleft"; the vertebra L1): they are a side
# only if both sides are there.
_PERHAPS = re.compile(
    r"(?P<before>l|r|lt|rt|좌|우)(?P<after>[^\W\d_].*|\d+)"
    r"|(?P<stem>.*[^\W\d_])(?P<end>left|right|l|r|왼쪽|오른쪽)"
)
_WORD = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
Words = tuple[str, ...]


def flip_pairs(names: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Pair the keypoints that change places in a mirrored image.

    >>> flip_pairs(["nose", "L_Eye", "R_Eye", "눈썹 (왼쪽)", "눈썹 (오른쪽)", "left_tail"])
    ([('L_Eye', 'R_Eye'), ('눈썹 (왼쪽)', '눈썹 (오른쪽)')], ['left_tail'])

    Returns:
        The pairs (left, right), in the order of their first keypoints; and the names that say left
        or right and have no partner, or several.
    """
    certain = {name: _sided_words(name) for name in names}
    words = {name: found for name, found in certain.items() if found != _mirrored(found)}
    others = [name for name in names if name not in words]
    words |= _perhaps_sided(others)
    spelled: dict[Words, list[str]] = defaultdict(list)
    for name in names:
        if name in words:
            spelled[words[name]].append(name)
    position = {name: index for index, name in enumerate(names)}
    pairs: list[tuple[str, str]] = []
    alone: list[str] = []
    for name in dict.fromkeys(names):
        if name not in words:
            continue
        same, partners = spelled[words[name]], spelled.get(_mirrored(words[name]), [])
        if len(same) != 1 or len(partners) != 1:
            alone.append(name)
        elif position[name] < position[partners[0]]:
            is_left = next(word for word in words[name] if word in _MIRROR) == "<"
            pairs.append((name, partners[0]) if is_left else (partners[0], name))
    return pairs, alone


def _mirrored(words: Words) -> Words:
    return tuple(_MIRROR.get(word, word) for word in words)


def _split(name: str) -> list[str]:
    """Words and numbers, in lower case: "LeftEye_2" has three."""
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", name))]


def _sided_words(name: str) -> Words:
    """The words of a name, with < and > for its sides; a single one comes first."""
    words: list[str] = []
    if re.fullmatch(r"[lr]\d+", name, re.IGNORECASE):  # may be a number only: see _PERHAPS
        return (name.lower(),)
    for word in _split(name):
        if word in _SIDE_OF:
            words.append(_SIDE_OF[word])
        elif prefix := _PREFIX.match(word):
            words += [_SIDE_OF[prefix[0]], word[prefix.end() :]]
        else:
            words.append(word)
    sides = [word for word in words if word in _MIRROR]
    if len(sides) == 1:
        words.remove(sides[0])
        words.insert(0, sides[0])
    return tuple(words)


def _perhaps_sided(names: Sequence[str]) -> dict[str, Words]:
    """The words of those names whose side is certain because both sides are there."""
    readings: dict[str, Words] = {}
    numbered = []
    for name in names:
        match = _PERHAPS.fullmatch("".join(_split(name)))
        if match is None:
            continue
        if match["before"]:
            readings[name] = (_SIDE_OF[match["before"]], match["after"])
            numbered += [name] * match["after"].isdigit()
        else:
            readings[name] = (_SIDE_OF[match["end"]], match["stem"])
    known = set(readings.values())
    paired = {name for name, words in readings.items() if _mirrored(words) in known}
    if any(name in paired for name in numbered):  # "L1" is a side then, and so is "L2"
        paired |= set(numbered)
    return {name: readings[name] for name in paired}


# ----------------------------------------------------------------------------------- other values


def sigmas(names: Sequence[str], known: Mapping[str, float]) -> tuple[list[float], list[str]]:
    """Give each keypoint a constant of OKS.

    Args:
        known: COCO's sigmas by COCO's names.
    Returns:
        One value for each name, and the names that are not COCO's, which have UNIFORM_SIGMA.
    """
    joints = joints_of(names)
    uniform = [name for name, joint in zip(names, joints, strict=True) if joint not in known]
    others = set(uniform)
    return [
        UNIFORM_SIGMA if name in others else known[joint]
        for name, joint in zip(names, joints, strict=True)
    ], uniform


# Words without sides, separators and numbers. "Upper" is the half that a crop of the upper body
# shows: of an animal the front, of a hand all of it.
_UPPER = _set(
    "nose eye ear face head headtop tophead headbottom forehead brow eyebrow pupil mouth lip jaw",
    "chin cheek muzzle beak horn neck upperneck throat nape thorax chest sternum breast withers",
    "shoulder clavicle collarbone arm upperarm forearm elbow wrist hand handroot palm finger thumb",
    "forefinger index indexfinger middlefinger ringfinger pinky pinkyfinger littlefinger wing",
    "코 눈 귀 머리 정수리 이마 눈썹 입 입술 턱 볼 목 가슴 어깨 쇄골 팔 팔꿈치 손목 손 손가락",
    "엄지 검지 중지 약지 소지",
)
_LOWER = _set(
    "hip pelvis crotch groin thigh knee shin calf ankle foot heel toe bigtoe smalltoe rump croup",
    "tail tailbase rootoftail tailroot tailtip endoftail hock stifle",
    "엉덩이 골반 허벅지 무릎 종아리 발목 발 발뒤꿈치 뒤꿈치 발가락 엄지발가락 새끼발가락 꼬리",
)
# Of animals, whose half is that of a second word.
_LEGS = _set("paw foot hoof leg elbow knee ankle wrist toe heel thigh hock fetlock")
_FRONT = _set("f front fore forward")
_BACK = _set("b back hind rear h")


def upper_body(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find the keypoints of the upper half of the body.

    >>> upper_body(["Nose", "L_F_Paw", "L_B_Paw", "hook"])
    (['Nose', 'L_F_Paw'], ['hook'])

    Returns:
        The names of the upper half; and those that may be of either: unless there are none, the
        halves cannot be told from the names.
    """
    halves = {name: _half(name, joint) for name, joint in zip(names, joints_of(names), strict=True)}
    return [n for n in names if halves[n] == "upper"], [n for n in names if not halves[n]]


def _half(name: str, joint: str) -> str:
    part = re.sub(r"^(left|right)_", "", joint)
    words = [w for w in _sided_words(name) if w not in _MIRROR and not w.isdigit()]
    legs = {w.removesuffix("s") for w in words} & _LEGS
    if legs and len(words) == 2:
        for half, where in (("upper", _FRONT), ("lower", _BACK)):
            if where & set(words):
                return half
    spelled = "".join(words)
    for half, parts in (("upper", _UPPER), ("lower", _LOWER)):
        if part in parts or spelled in parts or spelled.removesuffix("s") in parts:
            return half
    return ""
