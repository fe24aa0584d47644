"""`skeleton`: the keypoints of the objects that are trained on, and what follows from them.

K = keypoints, in the order of the annotations. "Left" and "right" are the object's own. Keys that
are left out follow from the names (`keypoint_names`); without names, all are COCO's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WrapSerializer,
    model_validator,
)

from sdpose.config import keypoint_names
from sdpose.config.schema.section import PositiveFloat, Section
from sdpose.errors import did_you_mean
from sdpose.printable import printable_line

PRESETS = Path(__file__).parents[1] / "skeletons"
PRESET_NAMES = ("ap10k", "coco", "coco_wholebody", "crowdpose", "hand21", "mpii")
MAX_KEYPOINTS = 1000
MAX_LIMBS = 5000
SIDES = ("left", "right")

MAX_NAME = 100
KeypointName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME)
]
Pair = tuple[KeypointName, KeypointName]


class Skeleton(Section):
    """Keypoints by name; the properties have them as indices, for arrays."""

    keypoints: Annotated[
        tuple[KeypointName, ...], Field(min_length=1, max_length=MAX_KEYPOINTS)
    ] = Field(
        description="names, in the order of the annotations; default: COCO's",
        examples=[["nose", "tail"]],
    )
    flip_pairs: tuple[Pair, ...] = Field(
        (),
        description="left and right keypoints that change places in a mirrored image; default: "
        "from the names; [] for none",
        examples=[[["left_eye", "right_eye"]]],
    )
    sigmas: tuple[PositiveFloat, ...] = Field(
        description="per-keypoint constants of OKS, one for each keypoint; default: COCO's where "
        f"the name is COCO's, else {keypoint_names.UNIFORM_SIGMA}",
        examples=[[0.05] * 17],
    )
    limbs: Annotated[tuple[Pair, ...], Field(max_length=MAX_LIMBS)] = Field(
        (), description="pairs that are drawn as lines", examples=[[["nose", "left_eye"]]]
    )
    upper_body: tuple[KeypointName, ...] = Field(
        (),
        description="keypoints of the upper half, for half-body crops; default: from the names, "
        "where all of them say it; [] for none",
        examples=[["nose"]],
    )

    @model_validator(mode="before")
    @classmethod
    def _derived_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "keypoints" not in value:
            return preset("coco").model_dump() | value
        names = value["keypoints"]
        if not _is_list_of_names(names):
            return {"sigmas": (), **value}  # reported as keypoints
        names = [name.strip() for name in names]
        derived: dict[str, Any] = {}
        if "flip_pairs" not in value:
            derived["flip_pairs"] = _flip_pairs(names)
        if "sigmas" not in value:
            derived["sigmas"] = keypoint_names.sigmas(names, coco_sigmas())[0]
        if "upper_body" not in value:
            upper, unknown = keypoint_names.upper_body(names)
            derived["upper_body"] = () if unknown else upper
        return value | derived

    @model_validator(mode="after")
    def _names_agree(self) -> Skeleton:
        names = self.keypoints
        if odd := [name for name in names if printable_line(name) != name]:
            raise ValueError(f"keypoints has a name with control characters: {odd[0]!r}")
        known = set(names)
        if twice := _repeated(names):
            raise ValueError(f"keypoints has these names more than once: {twice}")
        if len(self.sigmas) != len(names):
            raise ValueError(
                f"sigmas has {len(self.sigmas)} values, keypoints {len(names)} names: expected one "
                "value for each keypoint, in the same order"
            )
        used = {
            "flip_pairs": [name for pair in self.flip_pairs for name in pair],
            "limbs": [name for pair in self.limbs for name in pair],
            "upper_body": self.upper_body,
        }
        for key, members in used.items():
            for name in members:
                if name not in known:
                    raise ValueError(
                        f"{key} names '{name}', which is not in keypoints: "
                        f"{did_you_mean(name, list(names))}"
                    )
        for key in ("flip_pairs", "upper_body"):
            if twice := _repeated(used[key]):
                raise ValueError(f"{key} names these keypoints more than once: {twice}")
        if loops := [a for a, b in self.limbs if a == b]:
            raise ValueError(f"limbs connects '{loops[0]}' with itself")
        return self

    @property
    def preset(self) -> str | None:
        """The name of the shipped skeleton that this one equals."""
        return next((name for name in PRESET_NAMES if preset(name) == self), None)

    @property
    def label(self) -> str:
        """For tables; the same for skeletons whose AP compares, whatever their limbs: a preset's
        name, else the number of keypoints and a digest."""
        values = self.keypoints, self.sigmas
        for name in PRESET_NAMES:
            if values == (preset(name).keypoints, preset(name).sigmas):
                return name
        digest = hashlib.sha256(repr(values).encode()).hexdigest()
        return f"{self.num_keypoints} keypoints {digest[:8]}"

    @property
    def is_coco(self) -> bool:
        """Whether poses are those of COCO's person, and are evaluated so; limbs are only drawn."""
        return (self.keypoints, self.sigmas) == (COCO.keypoints, COCO.sigmas)

    def subset(self, names: Sequence[str]) -> Skeleton:
        """Return the skeleton of some of its keypoints, in this order."""
        kept = set(names)
        sigma_of = dict(zip(self.keypoints, self.sigmas, strict=True))
        return Skeleton(
            keypoints=tuple(names),
            flip_pairs=tuple(pair for pair in self.flip_pairs if kept.issuperset(pair)),
            sigmas=tuple(sigma_of[name] for name in names),
            limbs=tuple(limb for limb in self.limbs if kept.issuperset(limb)),
            upper_body=tuple(name for name in self.upper_body if name in kept),
        )

    @property
    def num_keypoints(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip_index(self) -> tuple[int, ...]:
        """[K]: the keypoint that each one becomes in a mirrored image."""
        partner = {a: b for pair in self.flip_pairs for a, b in (pair, pair[::-1])}
        return tuple(self.keypoints.index(partner.get(name, name)) for name in self.keypoints)

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """[K]: "left" for the first keypoint of a pair, "right" for the second, else ""."""
        side = {name: s for pair in self.flip_pairs for name, s in zip(pair, SIDES, strict=True)}
        return tuple(side.get(name, "") for name in self.keypoints)

    @cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        index = self.keypoints.index
        return tuple((index(a), index(b)) for a, b in self.limbs)

    @cached_property
    def is_upper(self) -> tuple[bool, ...]:
        """[K]: whether the keypoint belongs to the upper body."""
        return tuple(name in self.upper_body for name in self.keypoints)


def _is_list_of_names(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= MAX_KEYPOINTS
        and all(isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME for name in value)
    )


def _flip_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Left and right by name. A wrong answer would train mirrored persons, so that a doubtful one
    is an error."""
    pairs, alone = keypoint_names.flip_pairs(names)
    if keypoint_names.says_nothing(names):
        why = "keypoints that have numbers only do not say which are left and right"
    elif alone and not _repeated(names):
        why = f"these names say left or right, and have no partner: {', '.join(alone[:10])}"
    else:
        return pairs
    raise ValueError(f"{why}: give flip_pairs, [[left, right], ...], [] for none")


def _repeated(names: Iterable[str]) -> str:
    return ", ".join(name for name, count in Counter(names).items() if count > 1)


@lru_cache
def preset(name: str) -> Skeleton:
    """Return a shipped skeleton; its file cites its source.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESET_NAMES:
        raise ValueError(
            f"'{name}' is no skeleton: {did_you_mean(name, [*PRESET_NAMES, AUTO])}, or the keys "
            "keypoints, flip_pairs, sigmas, limbs and upper_body below it"
        )
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    return Skeleton.model_validate(yaml.safe_load(text))


def coco_sigmas() -> dict[str, float]:
    """Return COCO's constants of OKS by the names of its keypoints."""
    coco = preset("coco")
    return dict(zip(coco.keypoints, coco.sigmas, strict=True))


COCO = preset("coco")
AUTO = "auto"


def _from_name(value: Any) -> Any:
    if value is None:
        raise ValueError(
            f"nothing is below it: expected {AUTO}, a name ({', '.join(PRESET_NAMES)}), or the "
            "keys keypoints, flip_pairs, sigmas, limbs and upper_body"
        )
    if value == AUTO:
        return None
    return preset(value) if isinstance(value, str) else value


def _to_name(value: Skeleton | None, dump: SerializerFunctionWrapHandler) -> Any:
    return AUTO if value is None else dump(value)


# Of an experiment; None: `auto`, not yet read from the training file. (A union with a Literal would
# put pydantic's names of its members into the paths of messages.)
SkeletonChoice = Annotated[Skeleton | None, BeforeValidator(_from_name), WrapSerializer(_to_name)]
