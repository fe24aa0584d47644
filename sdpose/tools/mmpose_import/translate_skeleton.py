"""`skeleton` from an mmpose configuration: its `dataset_info`, or the one that mmpose itself takes
for a type of dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sdpose.config import keypoint_names
from sdpose.config.schema.skeleton import PRESET_NAMES, preset
from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.translation import Node, Translation, as_dict, as_list, put

# Types whose `dataset_info` mmpose 0.x adds where a file has none, as those of before 0.15.
SKELETON_OF = {
    "TopDownCocoDataset": "coco",
    "TopDownCocoWholeBodyDataset": "coco_wholebody",
    "TopDownCrowdPoseDataset": "crowdpose",
    "TopDownMpiiDataset": "mpii",
    "AnimalAP10KDataset": "ap10k",
    "OneHand10KDataset": "hand21",
}


@dataclass(frozen=True)
class DatasetInfo:
    """The keys of an experiment's `skeleton`, as a `dataset_info` has them."""

    keypoints: list[str]
    flip_pairs: list[tuple[str, str]]
    sigmas: list[float]  # empty: not stated, as for OneHand10K
    limbs: list[tuple[str, str]]
    upper_body: list[str]

    @classmethod
    def of_preset(cls, name: str) -> DatasetInfo:
        values = preset(name).model_dump()
        return cls(**{key: list(value) for key, value in values.items()})

    @property
    def preset(self) -> str | None:
        """The shipped skeleton that trains and evaluates the same; limbs are only drawn."""
        for name in PRESET_NAMES:
            shipped = DatasetInfo.of_preset(name)
            if self._compared(shipped.sigmas) == shipped._compared(shipped.sigmas):
                return name
        return None

    def _compared(self, default_sigmas: list[float]) -> tuple[Any, ...]:
        pairs = {frozenset(pair) for pair in self.flip_pairs}
        sigmas = self.sigmas or default_sigmas
        return self.keypoints, pairs, sigmas, set(self.upper_body)


def read_dataset_info(
    dataset: Node, kind: str, result: Translation, *, evaluates: bool
) -> DatasetInfo:
    """Take `dataset_info` from a dataset of this type.

    Args:
        evaluates: mmpose reads the sigmas of the evaluated dataset alone.
    Raises:
        UserError: nothing says which keypoints the dataset has, or the pairs contradict each other.
    """
    at = dataset.path_of("dataset_info")
    given = as_dict(dataset.get("dataset_info"))
    joints = as_dict(given.get("keypoint_info"))
    node = dataset.section("dataset_info")
    node.without_effect("dataset_name", "a label")
    node.without_effect("paper_info", "not used in training or evaluation")
    node.without_effect("joint_weights", "not used without use_different_joint_weights")
    if not joints:
        node.finish()
        if kind not in SKELETON_OF:
            raise UserError(
                f"{dataset.path_of('type')} is '{kind}' without dataset_info.keypoint_info: add "
                f"it; only of {', '.join(SKELETON_OF)} the keypoints are known without"
            )
        return DatasetInfo.of_preset(SKELETON_OF[kind])
    info = _keypoint_info(joints, f"{at}.keypoint_info")
    links = [as_dict(limb).get("link") for limb in as_dict(given.get("skeleton_info")).values()]
    limbs = [(a, b) for a, b in map(as_list, links)]
    sigmas = as_list(given.get("sigmas")) if evaluates else []
    info = replace(info, sigmas=sigmas, limbs=limbs)
    name = info.preset
    if not evaluates:
        node.without_effect("sigmas", "evaluation has val's")
    _report_odd_keys(joints, f"{at}.keypoint_info", result)
    for key, what in {
        "keypoint_info": "names, pairs and halves",
        "skeleton_info": "limbs",
        "sigmas": "values",
    }.items():
        if name:
            node.without_effect(key, f"the {what} of '{name}'; colours are not used")
        else:
            node.take(key)
    node.finish()
    return DatasetInfo.of_preset(name) if name else info


def put_skeleton(train: DatasetInfo, val: DatasetInfo, result: Translation) -> int:
    """Write the skeleton of both datasets into the experiment; return its number of keypoints.

    Raises:
        UserError: they differ in more than sigmas and limbs.
    """
    for key in ("keypoints", "flip_pairs", "upper_body"):
        trained, evaluated = getattr(train, key), getattr(val, key)
        if trained != evaluated:
            raise UserError(
                f"data.train.dataset_info and data.val.dataset_info differ in {key}: "
                f"{_difference(trained, evaluated)}; an experiment has one skeleton"
            )
    name = val.preset
    values = asdict(val)
    if not val.sigmas:
        del values["sigmas"]
        if name is None:
            result.added.append(
                "skeleton.sigmas: COCO's where the name is COCO's, else "
                f"{keypoint_names.UNIFORM_SIGMA}, as dataset_info has none  (AP is comparable "
                "within this dataset alone)"
            )
    put(result.experiment, "skeleton", name or values)
    return len(val.keypoints)


def _difference(trained: list[Any], evaluated: list[Any]) -> str:
    only = {
        "data.train": [each for each in trained if each not in evaluated],
        "data.val": [each for each in evaluated if each not in trained],
    }
    sides = [
        f"only {split} has {', '.join(map(str, each))}" for split, each in only.items() if each
    ]
    return ", ".join(sides) or "the same in another order"


def check_joints(node: Node, key: str, number: int) -> None:
    """Take a number of joints, which the skeleton says here.

    Raises:
        UserError: the skeleton has another number.
    """
    value = node.get(key)
    if isinstance(value, int | float) and value != number:
        raise UserError(
            f"{node.path_of(key)} = {value}, but data.val has {number} keypoints (of its "
            "dataset_info, else of its type): set both to the same keypoints"
        )
    node.built_in(key, (number,))


def _keypoint_info(joints: dict[Any, Any], path: str) -> DatasetInfo:
    """mmpose's keys are the indices of keypoints; a keypoint without `swap` is its own mirror."""
    if set(joints) != set(range(len(joints))):
        raise UserError(
            f"{path} has {len(joints)} joints, so that their keys must be 0 to {len(joints) - 1}; "
            f"found {describe(list(joints))}"
        )
    rows = [as_dict(joints[k]) for k in range(len(joints))]
    names: list[str] = []
    for k, row in enumerate(rows):
        name = row.get("name")
        if not isinstance(name, str) or name in names:
            raise UserError(f"{path}[{k}].name is {describe(name)}: expected a name of its own")
        names.append(name)
    swap = {row["name"]: row.get("swap") or row["name"] for row in rows}
    for k, name in enumerate(names):
        if swap.get(swap[name]) != name:
            raise UserError(
                f"{path}[{k}].swap is {describe(rows[k].get('swap'))}: expected a joint whose swap "
                f"is {describe(name)}, or '' for one that stays where it is"
            )
    sided = set(keypoint_names.flip_pairs(names)[0])  # (left, right); mmpose has them in any order
    pairs = [(a, b) for a, b in swap.items() if names.index(a) < names.index(b)]
    return DatasetInfo(
        keypoints=names,
        flip_pairs=[(b, a) if (b, a) in sided else (a, b) for a, b in pairs],
        sigmas=[],
        limbs=[],
        upper_body=[row["name"] for row in rows if row.get("type") == "upper"],
    )


def _report_odd_keys(joints: dict[Any, Any], path: str, result: Translation) -> None:
    """List what mmpose does not read, beside the colours."""
    for k, joint in joints.items():
        for key, value in as_dict(joint).items():
            at = f"{path}.{k}.{key}"
            if key == "id" and value != k:
                result.not_supported(at, value, "the key is what counts")
            elif key == "type" and value not in ("upper", "lower", "", None):
                result.not_supported(at, value, "only 'upper' is the upper half")
            elif key not in ("name", "id", "swap", "type", "color"):
                result.not_supported(at, value)
