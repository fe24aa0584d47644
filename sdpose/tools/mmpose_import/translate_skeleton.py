"""`dataset_info` of an mmpose configuration beside COCO's person, the skeleton here."""

from __future__ import annotations

from typing import Any

from sdpose.config.schema import COCO
from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.tools.mmpose_import.translation import Node, as_dict

OTHER_SKELETON = "only COCO's 17 joints can be trained here"


def check_joints(node: Node, key: str) -> None:
    """A number of joints: 17. Raises UserError."""
    number = node.get(key)
    if isinstance(number, int | float) and number != COCO.num_keypoints:
        raise UserError(f"{node.path_of(key)} = {number}: {OTHER_SKELETON}")
    node.built_in(key, (COCO.num_keypoints,))


def translate_skeleton(info: Node) -> None:
    """Raises UserError if joints mirror each other differently, or are not 17."""
    info.built_in("dataset_name", ("coco",))
    for key in ("paper_info", "skeleton_info"):
        info.without_effect(key, "not used in training or evaluation")
    sigmas = list(COCO.sigmas)
    info.built_in("sigmas", (sigmas, tuple(sigmas)), "evaluation has COCO's")
    info.without_effect("joint_weights", "not used without use_different_joint_weights")
    joints = as_dict(info.get("keypoint_info"))
    if joints:
        _check_mirror_pairs(joints, info.path_of("keypoint_info"))
        differing = _differences(joints)
        if differing:
            info.unsupported("keypoint_info", f"here as COCO's: {', '.join(differing)}")
        else:
            info.without_effect("keypoint_info", "COCO's names, pairs and halves; colours unused")
    info.finish()


def _check_mirror_pairs(joints: dict[Any, Any], path: str) -> None:
    if len(joints) != COCO.num_keypoints:
        raise UserError(f"{path} has {len(joints)} joints: {OTHER_SKELETON}")
    names = [as_dict(joint).get("name") for joint in joints.values()]
    for index, (joint, mirrored) in enumerate(zip(joints.values(), COCO.flip_index, strict=True)):
        expected = "" if mirrored == index else names[mirrored]
        swap = as_dict(joint).get("swap")
        if swap != expected:
            raise UserError(
                f"{path}[{index}].swap is {describe(swap)}, COCO's would be {describe(expected)}: "
                f"{OTHER_SKELETON}, and a mirrored image exchanges them in COCO's pairs"
            )


def _differences(joints: dict[Any, Any]) -> list[str]:
    """What of the joints is not COCO's, beside the colours."""
    halves = ["upper" if upper else "lower" for upper in COCO.is_upper]
    columns: dict[str, list[Any]] = {
        "name": list(COCO.keypoints),
        "id": list(range(COCO.num_keypoints)),
        "type": halves,
    }
    values = [as_dict(joint) for joint in joints.values()]
    differing = [
        key for key, ours in columns.items() if [joint.get(key) for joint in values] != ours
    ]
    if list(joints) != columns["id"]:
        differing.append("order")
    known = {*columns, "swap", "color"}
    return differing + sorted({str(key) for joint in values for key in joint} - known)
