"""The categories of a COCO keypoints file that a skeleton is of."""

from __future__ import annotations

from typing import Any

from sdpose.config.keypoint_names import says_nothing
from sdpose.config.schema import COCO, Skeleton
from sdpose.data.joint_names import joint_names_problem, owner, same_joints
from sdpose.data.tables import Problems, as_list
from sdpose.documents import describe


def categories_of(categories: list[Any]) -> list[dict[str, Any]]:
    """Return the entries of `categories` that are objects with an integer id."""
    return [c for c in categories if isinstance(c, dict) and type(c.get("id")) is int]


def persons_of(entries: list[dict[str, Any]], skeleton: Skeleton) -> list[dict[str, Any]]:
    """Return the categories that may have this skeleton.

    The first of these groups that is not empty: those with its keypoints that are named `person`;
    for COCO's keypoints, those of that name without keypoints; those with its keypoints; those with
    as many; those named `person`. Without any keypoints in the file, a skeleton other than COCO's
    may be of every category. Several with its keypoints, as the animals of AP-10K, are taken as
    one; otherwise one is expected.
    """
    joints = {id(c): as_list(c.get("keypoints")) for c in entries}
    same = [c for c in entries if joints[id(c)] and same_joints(joints[id(c)], skeleton.keypoints)]
    named = [c for c in entries if c.get("name") == "person"]
    as_many = [c for c in entries if len(joints[id(c)]) == skeleton.num_keypoints]
    is_coco = skeleton.keypoints == COCO.keypoints
    if not is_coco and not any(joints.values()):
        return entries
    bare = [c for c in named if is_coco and says_nothing(joints[id(c)])]
    return [c for c in same if c in named] or bare or same or as_many or named


def are_one(categories: list[dict[str, Any]], skeleton: Skeleton) -> bool:
    """Return whether the outcome of `persons_of` is one category, or several taken as one."""
    return len(categories) == 1 or (
        len(categories) > 1
        and all(same_joints(as_list(c.get("keypoints")), skeleton.keypoints) for c in categories)
    )


def person_categories(
    categories: list[Any], skeleton: Skeleton, problems: Problems
) -> list[dict[str, Any]]:
    """Return the categories whose annotations are read, or add a problem that says why none is."""
    entries = categories_of(categories)
    named = persons_of(entries, skeleton)
    if not are_one(named, skeleton):
        found = ", ".join(f"{c['id']}: {describe(c.get('name'))}" for c in entries[:20]) or "none"
        problems.add(
            "'categories' must have exactly one category 'person' (integer id) or with the "
            f"skeleton's {skeleton.num_keypoints} keypoints, found {found}"
        )
        return []
    problem = joint_names_problem(
        as_list(named[0].get("keypoints")), skeleton.keypoints, skeleton.preset
    )
    if problem:
        problems.add(problem)
    return named


def notes_on(categories: list[dict[str, Any]], skeleton: Skeleton) -> list[str]:
    """Return what was assumed of them."""
    if len(categories) > 1:
        names = ", ".join(describe(c.get("name")) for c in categories[:3])
        return [f"{len(categories)} categories with these keypoints are taken as one: {names}, ..."]
    if not says_nothing(as_list(categories[0].get("keypoints"))):
        return []
    return [
        f"the category does not name its keypoints: they are taken for {owner(skeleton.preset)} in "
        f"its order ({', '.join(skeleton.keypoints[:3])}, ...); names in categories[].keypoints "
        "would be compared"
    ]
