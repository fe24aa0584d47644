"""Check that the joints of a dataset are those of a skeleton, in the same order.

Flip pairs, half-body sets and sigmas are by position: with joints in another order, training
confuses left and right, and no loss curve shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdpose.config.keypoint_names import joints_of, says_nothing


def same_joints(names: Sequence[object], keypoints: Sequence[str]) -> bool:
    """Return whether the names are those of the skeleton, in its order and any spelling."""
    return joints_of(names) == joints_of(keypoints)


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
    elif sorted(joints_of(names)) == sorted(joints_of(keypoints)):
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
    titles = {
        "coco": "COCO",
        "crowdpose": "CrowdPose",
        "mpii": "MPII",
        "coco_wholebody": "COCO-WholeBody",
        "ap10k": "AP-10K",
    }
    return f"{titles.get(preset, preset)}'s"
