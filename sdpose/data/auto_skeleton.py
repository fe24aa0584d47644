"""`skeleton: auto`: the skeleton of the category in the training file.

Names and limbs are the category's; flip pairs, sigmas and halves follow from the names. What the
names do not say and the training needs is refused, with the YAML to complete.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sdpose.config import Experiment, keypoint_names
from sdpose.config.document import parse_document
from sdpose.config.schema import PRESET_NAMES, Skeleton, preset
from sdpose.config.schema.skeleton import coco_sigmas
from sdpose.config.skeleton_yaml import skeleton_yaml
from sdpose.data.categories import categories_of
from sdpose.data.joint_names import joint_names_problem, same_joints
from sdpose.data.tables import Floats, Problems, kind_of, read_json
from sdpose.documents import describe
from sdpose.errors import UserError

SHOWN = 10
_FAR = 1e6  # pixels; an integer of JSON may have any number of digits

log = logging.getLogger(__name__)


def with_skeleton(experiment: Experiment) -> Experiment:
    """Return the experiment with its skeleton; `auto` is read from the training file.

    Logs once what was read, and which keypoints have no sigma of their own.

    Raises:
        UserError: the file cannot be read, or does not say what the training needs; the message
            has the YAML to add.
    """
    if experiment.skeleton is None:
        experiment = experiment.model_copy(update={"skeleton": _read(experiment)})
    if experiment.keypoints.preset is None:
        _warn(experiment, experiment.keypoints)
    return experiment


def _warn(experiment: Experiment, skeleton: Skeleton) -> None:
    """Say what a skeleton that nobody has checked leaves without sigmas, mirrors or halves."""
    cfg, count = experiment.train_pipeline, skeleton.num_keypoints
    if uniform := uniform_sigmas(skeleton):
        _once(
            logging.WARNING,
            f"skeleton: {len(uniform)} of {count} keypoints are not COCO's and "
            f"have the sigma {keypoint_names.UNIFORM_SIGMA} ({_some(uniform)}): AP is comparable "
            "within this dataset only; skeleton.sigmas sets others",
        )
    if not skeleton.flip_pairs and count > 1 and cfg.flip_prob > 0:
        _once(
            logging.WARNING,
            "skeleton: images are mirrored, and no keypoints change places: right for a hand, or "
            "what has no sides; else give skeleton.flip_pairs, or train_pipeline.flip_prob: 0",
        )
    cuts = cfg.prob_half_body > 0 and cfg.num_joints_half_body < count
    if cuts and len(set(skeleton.is_upper)) == 1:
        _once(
            logging.WARNING,
            "skeleton: no half bodies are cut, because skeleton.upper_body has none or all of the "
            "keypoints (train_pipeline.prob_half_body: 0 says the same)",
        )


def uniform_sigmas(skeleton: Skeleton) -> list[str]:
    """Return the keypoints whose sigma is the uniform one, because COCO has none for them."""
    _, unknown = keypoint_names.sigmas(skeleton.keypoints, coco_sigmas())
    value_of = dict(zip(skeleton.keypoints, skeleton.sigmas, strict=True))
    return [name for name in unknown if value_of[name] == keypoint_names.UNIFORM_SIGMA]


@functools.cache
def _once(level: int, text: str) -> None:
    log.log(level, text)


def _read(experiment: Experiment) -> Skeleton:
    path = Path(experiment.data_root) / experiment.data.train.ann_file
    if not path.is_file():
        raise UserError(
            f"skeleton: auto: data.train.ann_file not found: {path.absolute()}; it has the names "
            "of the keypoints: --data-root DIR names the folder of the dataset"
        )
    draft = read_draft(path)
    refuse_unknown(draft, experiment)
    skeleton = draft.skeleton()
    _refuse_other_validation(experiment, path, skeleton)
    for name in PRESET_NAMES:
        if preset(name).sigmas != skeleton.sigmas and same_joints(
            skeleton.keypoints, preset(name).keypoints
        ):
            _once(
                logging.WARNING,
                f"skeleton: auto: these are the keypoints of {name}: `skeleton: {name}` evaluates "
                "with its published sigmas",
            )
    _once(
        logging.INFO,
        f"skeleton: auto: {len(draft.names)} keypoints of {draft.where}; flip pairs: "
        f"{len(skeleton.flip_pairs)}, limbs: {len(skeleton.limbs)}, upper half: "
        f"{len(skeleton.upper_body)} keypoints",
    )
    return skeleton


# ---------------------------------------------------------------------------------------- drafts


@dataclass(frozen=True)
class Draft:
    """What a category tells about its skeleton, and what it leaves open."""

    path: Path
    label: str  # of the category, for messages
    category_id: int
    names: list[str]
    limbs: list[tuple[str, str]]
    triples: list[list[float]]  # x, y, v of each keypoint, one list for each annotation

    @property
    def where(self) -> str:
        return f"{self.label} in {self.path}"

    @property
    def flip_pairs(self) -> tuple[list[tuple[str, str]], list[str]]:
        return keypoint_names.flip_pairs(self.names)

    @property
    def upper_body(self) -> tuple[list[str], list[str]]:
        return keypoint_names.upper_body(self.names)

    def skeleton(self) -> Skeleton:
        """Return the skeleton, without flip pairs and halves that are not known.

        Raises:
            UserError: names are empty or repeated.
        """
        return parse_document(Skeleton, self._values(), self.where)

    def _values(self) -> dict[str, Any]:
        upper, unknown = self.upper_body
        return {
            "keypoints": self.names,
            "flip_pairs": self.flip_pairs[0],
            "sigmas": keypoint_names.sigmas(self.names, coco_sigmas())[0],
            "limbs": self.limbs,
            "upper_body": [] if unknown else upper,
        }

    def yaml(self) -> str:
        """Write the skeleton as YAML for an experiment; `# ?` marks what a person must decide."""
        alone, (upper, unknown) = self.flip_pairs[1], self.upper_body
        _, uniform = keypoint_names.sigmas(self.names, coco_sigmas())
        comments = {
            "keypoints": [f"of {self.where}"],
            "flip_pairs": ["[left, right]; from the names"],
            "sigmas": ["COCO's, by name"],
            "limbs": ["of the category's skeleton"],
            "upper_body": ["from the names"],
        }
        if keypoint_names.says_nothing(self.names):
            comments["flip_pairs"] = ["? [left, right], ...: numbers do not say it; [] for none"]
        elif alone:
            comments["flip_pairs"] += [f"? no partner: {', '.join(alone)}"]
        if uniform:
            value = keypoint_names.UNIFORM_SIGMA
            comments["sigmas"] = [f"COCO's, by name; {value}, of no dataset: {', '.join(uniform)}"]
        if unknown:
            comments["upper_body"] += [f"? upper half or lower: {', '.join(unknown)}"]
        return skeleton_yaml(self._values() | {"upper_body": upper}, comments)

    def fullest_pose(self) -> Floats | None:
        """Return [K,2], the largest of the annotations with the most keypoints, NaN where unknown;
        None without annotations."""
        poses = np.array(self.triples, dtype=np.float64).reshape(-1, len(self.names), 3)
        poses = np.where(poses[:, :, 2:] > 0, poses[:, :, :2], np.nan)
        known = (~np.isnan(poses[:, :, 0])).sum(axis=1)
        poses = poses[(known == known.max(initial=0)) & (known > 1)]
        if not len(poses):
            return None
        extent = np.nanmax(poses, axis=1) - np.nanmin(poses, axis=1)
        return poses[int(extent.prod(axis=1).argmax())]


def read_draft(path: Path) -> Draft:
    """Read the names and limbs of the one category with keypoints.

    Raises:
        UserError: the file cannot be read, has no such category or several, or its parts disagree.
    """
    document = read_json(path)
    categories = document.get("categories") if isinstance(document, dict) else None
    if not isinstance(categories, list):
        raise UserError(
            f"{path}: not a COCO file: 'categories' must be a list, found {kind_of(categories)}"
        )
    rows = document.get("annotations")
    annotations = [a for a in rows if isinstance(a, dict)] if isinstance(rows, list) else []
    drafts = [
        _draft(path, category)
        for category in categories_of(categories)
        if isinstance(category.get("keypoints"), list) and category["keypoints"]
    ]
    if not drafts:
        raise UserError(_without_names(path, annotations))
    first, *others = drafts
    if any(not same_joints(draft.names, first.names) for draft in others):
        raise UserError(_several(path, drafts, annotations))
    # As the animals of AP-10K: `load_annotations` takes them as one.
    triples = [_triples(draft, annotations) for draft in drafts]
    return replace(first, triples=list(itertools.chain.from_iterable(triples)))


def _draft(path: Path, category: dict[str, Any]) -> Draft:
    names = [str(name) for name in category["keypoints"]]
    label = f"category {describe(category.get('name'))} (id {category['id']})"
    limbs: list[tuple[str, str]] = []
    wrong = []
    given = category.get("skeleton")
    for limb in given if isinstance(given, list) else []:
        ends = set(limb) if isinstance(limb, list) and all(type(k) is int for k in limb) else ()
        if len(ends) == 2 and len(limb) == 2 and all(1 <= k <= len(names) for k in ends):
            limbs.append((names[limb[0] - 1], names[limb[1] - 1]))
        else:
            wrong.append(describe(limb))
    problems = Problems()
    problems.add(
        f"limbs of 'skeleton' are not two different numbers of keypoints, 1 to {len(names)} (COCO "
        "counts from 1)",
        wrong,
    )
    problems.stop(path, f"{label}: not a skeleton")
    return Draft(path, label, category["id"], names, limbs, [])


def _triples(draft: Draft, annotations: list[dict[str, Any]]) -> list[list[float]]:
    """The keypoints of the category's annotations; an error if they are not as many as its names.

    Values that cannot be pixels are left to `load_annotations`.
    """
    count = len(draft.names)
    rows = [
        (row.get("id"), row["keypoints"])
        for row in annotations
        if row.get("category_id") == draft.category_id and isinstance(row.get("keypoints"), list)
    ]
    problems = Problems()
    problems.add(
        f"annotations have another number of keypoints than the {count} names of the category",
        (f"annotation {i} ({len(v) / 3:g} keypoints)" for i, v in rows if len(v) != 3 * count),
    )
    problems.stop(draft.path, f"{draft.label}: not a skeleton")
    return [v for _, v in rows if all(type(x) in (int, float) and abs(x) < _FAR for x in v)]


def _without_names(path: Path, annotations: list[dict[str, Any]]) -> str:
    lengths = [len(a["keypoints"]) for a in annotations if isinstance(a.get("keypoints"), list)]
    count = Counter(lengths).most_common(1)[0][0] // 3 if lengths else 0
    head = f"{path}: no category names its keypoints, so that skeleton: auto cannot read them"
    if not count:
        return f"{head}, and no annotation has any: is it a file of keypoints?"
    return (
        f"{head}. Write them into categories[].keypoints, or add to the experiment:\n"
        f"skeleton:\n  # ? {count} names, in the order of the annotations\n  keypoints: []"
    )


def _several(path: Path, drafts: list[Draft], annotations: list[dict[str, Any]]) -> str:
    used = Counter(i for row in annotations if type(i := row.get("category_id")) is int)
    drafts = sorted(drafts, key=lambda draft: -used[draft.category_id])
    lines = [
        f"  {draft.label}: {len(draft.names)} keypoints "
        f"({_some(draft.names, 5)}), {used[draft.category_id]} annotations"
        for draft in drafts[:SHOWN]
    ]
    if len(drafts) > SHOWN:
        lines.append(f"  and {len(drafts) - SHOWN} more")
    head = f"{path}: {len(drafts)} categories have keypoints; one is trained on:"
    first = drafts[0]
    return "\n".join(
        [head, *lines, f"to train on the first of these, add to the experiment:\n{first.yaml()}"]
    ).rstrip()


# -------------------------------------------------------------------------------------- refusals


def refuse_unknown(draft: Draft, experiment: Experiment) -> None:
    """Refuse what the names do not say and this experiment needs.

    Raises:
        UserError: with the YAML to complete.
    """
    draft.skeleton()  # empty and repeated names are another message
    cfg = experiment.train_pipeline
    problems, instead = [], []
    alone, unknown = draft.flip_pairs[1], draft.upper_body[1]
    if cfg.flip_prob > 0 or experiment.model.test_cfg.flip_test:
        if keypoint_names.says_nothing(draft.names):
            problems.append("images are mirrored, and numbers do not say which keypoints are left")
        elif alone:
            problems.append(
                "images are mirrored, and these names say left or right, but have no partner: "
                + _some(alone)
            )
        if problems:
            instead.append(
                "without mirrored images:\n"
                "train_pipeline.flip_prob: 0\nmodel.test_cfg.flip_test: false"
            )
    if unknown and cfg.prob_half_body > 0 and cfg.num_joints_half_body < len(draft.names):
        problems.append(
            "samples are cut to half a body, and these names do not say which half they are of: "
            + _some(unknown)
        )
        instead.append("without half bodies:\ntrain_pipeline.prob_half_body: 0")
    if not problems:
        return
    raise UserError(
        "\n".join(
            [
                f"skeleton: auto: {draft.where} does not say all that the training needs:",
                *(f"  {problem}" for problem in problems),
                "add to the experiment, with the lines below `# ?` completed:",
                draft.yaml().rstrip(),
                *(f"or, {text}" for text in instead),
            ]
        )
    )


def _refuse_other_validation(experiment: Experiment, train: Path, skeleton: Skeleton) -> None:
    """Of a validation file that is not there, its reader says so."""
    path = Path(experiment.data_root) / experiment.data.val.ann_file
    if not path.is_file() or path == train:
        return
    document = read_json(path)
    categories = document.get("categories") if isinstance(document, Mapping) else None
    named = [
        category["keypoints"]
        for category in categories_of(categories if isinstance(categories, list) else [])
        if isinstance(category.get("keypoints"), list) and category["keypoints"]
    ]
    if not named or any(not joint_names_problem(n, skeleton.keypoints, None) for n in named):
        return
    raise UserError(
        "training and validation have different keypoints, or another order of them:\n"
        f"  {train}: {len(skeleton.keypoints)}: {_some(skeleton.keypoints, 50)}\n"
        f"  {path}: {len(named[0])}: {_some(named[0], 50)}"
    )


def _some(names: Any, shown: int = SHOWN) -> str:
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"{name!s:.30}" for name in names[:shown]) + more
