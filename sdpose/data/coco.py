"""Read COCO keypoint annotations into arrays.

The selection and order of persons and boxes follow mmpose 0.29's `TopDownCocoDataset`, so that
results compare row by row with those of the official code. Defects that COCO's own tools ignore
(duplicate ids, NaN, annotations of unknown images) are errors here: they change AP silently.

N = boxes or persons, I = images, A = annotations of the person category, K joints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.categories import notes_on, person_categories
from sdpose.data.crowdpose import crowd_indices, person_areas
from sdpose.data.head_sizes import head_sizes
from sdpose.data.person_rules import HIDDEN, NO_COUNT, count_left_out, count_others, rule_of
from sdpose.data.tables import (
    Floats,
    Ints,
    Problems,
    as_list,
    floats,
    integers,
    is_integer,
    kind_of,
    read_json,
)
from sdpose.data.wholebody import is_wholebody, join_parts
from sdpose.documents import describe
from sdpose.errors import UserError


@dataclass(frozen=True)
class Boxes:
    """Boxes to evaluate, one row per box."""

    image_index: Ints  # [N], into CocoAnnotations' image arrays
    image_id: Ints  # [N]
    key: Ints  # [N], annotation id, or index in the detection file
    boxes_xywh: Floats  # [N,4], image pixels
    box_score: Floats  # [N], 0..1; 1 for ground truth

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class Persons(Boxes):
    """Annotated persons: boxes with joints."""

    joints: NDArray[np.float32]  # [N,K,2], image pixels; (0, 0) where not annotated
    visible: NDArray[np.float32]  # [N,K], 1 = annotated (COCO's v > 0), 0 = not

    @property
    def ann_id(self) -> Ints:
        return self.key

    def take(self, rows_N: Ints) -> Persons:
        return Persons(**{name: column[rows_N] for name, column in vars(self).items()})


@dataclass(frozen=True)
class CocoAnnotations:
    """A COCO keypoints file as arrays, without the categories other than person."""

    path: Path
    image_ids: Ints  # [I], file order
    file_names: tuple[str, ...]  # [I], relative to the image folder
    image_sizes_wh: Ints  # [I,2], pixels
    image_licenses: Ints  # [I], ids into `licenses`; -1 = none given
    licenses: dict[int, str]
    person_category: dict[str, Any]  # as in the file; of several with these keypoints the first
    category_ids: tuple[int, ...]  # of all of them
    skeleton: Skeleton
    ann_ids: Ints  # [A], file order
    ann_image_index: Ints  # [A]
    boxes_xywh: Floats  # [A,4], as in the file
    areas: Floats  # [A], pixels², as in the file; with crowd indices 0.53 x the box's
    iscrowd: NDArray[np.bool_]  # [A]
    num_keypoints: Ints  # [A]
    keypoints: Floats  # [A,K,3] = x, y, v (0 not annotated, 1 hidden, 2 visible)
    # Numbers of annotations of other categories, by reason.
    others: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # assumptions made where the file has no value
    crowd_index: Floats | None = None  # [I], 0..1, CrowdPose's; None: the file has none
    head_sizes: Floats | None = None  # [A], pixels, 0 = unknown; None: the file has none

    def persons(self) -> Persons:
        """Select the persons for training and ground-truth evaluation.

        Images are in file order, and so are the annotations of an image. Skipped are crowds and
        persons without keypoints, with area <= 0, or with a box that is empty once clipped to
        0 <= x1 < x2 <= width - 1 (and likewise in y); see `left_out`.
        """
        boxes = self._clipped_xywh()
        rows = np.flatnonzero(self._rules(boxes) == 0)
        rows = rows[np.argsort(self.ann_image_index[rows], kind="stable")]
        return Persons(
            image_index=self.ann_image_index[rows],
            image_id=self.image_ids[self.ann_image_index[rows]],
            key=self.ann_ids[rows],
            boxes_xywh=boxes[rows],
            box_score=np.ones(len(rows)),
            joints=self.keypoints[rows, :, :2].astype(np.float32),
            visible=(self.keypoints[rows, :, 2] > 0).astype(np.float32),
        )

    def left_out(self) -> dict[str, int]:
        """Count the annotations that `persons` skips, by reason."""
        counts = count_left_out(self._rules(self._clipped_xywh()), self.others)
        if self.crowd_index is None:
            return counts
        return {HIDDEN if reason == NO_COUNT else reason: n for reason, n in counts.items()}

    def _clipped_xywh(self) -> Floats:
        x, y, width, height = self.boxes_xywh.T
        last_x, last_y = (self.image_sizes_wh[self.ann_image_index] - 1).T
        x1, y1 = np.maximum(0, x), np.maximum(0, y)
        x2 = np.minimum(last_x, x1 + np.maximum(0, width))
        y2 = np.minimum(last_y, y1 + np.maximum(0, height))
        return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)

    def _rules(self, clipped_xywh: Floats) -> Ints:
        return rule_of(
            iscrowd=self.iscrowd,
            keypoints=self.keypoints,
            num_keypoints=self.num_keypoints,
            areas=self.areas,
            has_box=np.all(clipped_xywh[:, 2:] > 0, axis=1),
        )

    def without_images(self, file_names: Collection[str]) -> CocoAnnotations:
        """Return a copy without the images of these file names and their annotations."""
        left_out = frozenset(file_names)
        if not left_out:
            return self
        return self.of_images(np.array([name not in left_out for name in self.file_names], bool))

    def of_images(self, image_kept: NDArray[np.bool_]) -> CocoAnnotations:
        """Return a copy with the images of a mask [I] and their annotations."""
        new_index = np.cumsum(image_kept) - 1
        ann_kept = image_kept[self.ann_image_index]
        return replace(
            self,
            image_ids=self.image_ids[image_kept],
            file_names=tuple(
                name for name, kept in zip(self.file_names, image_kept, strict=True) if kept
            ),
            image_sizes_wh=self.image_sizes_wh[image_kept],
            image_licenses=self.image_licenses[image_kept],
            ann_ids=self.ann_ids[ann_kept],
            ann_image_index=new_index[self.ann_image_index[ann_kept]],
            boxes_xywh=self.boxes_xywh[ann_kept],
            areas=self.areas[ann_kept],
            iscrowd=self.iscrowd[ann_kept],
            num_keypoints=self.num_keypoints[ann_kept],
            keypoints=self.keypoints[ann_kept],
            crowd_index=None if self.crowd_index is None else self.crowd_index[image_kept],
            head_sizes=None if self.head_sizes is None else self.head_sizes[ann_kept],
        )

    def rows_of(self, ann_ids_N: Ints) -> Ints:
        """Return the rows [N] of annotations by their ids."""
        order = np.argsort(self.ann_ids)
        return order[np.searchsorted(self.ann_ids, ann_ids_N, sorter=order)]


def load_annotations(path: str | Path, skeleton: Skeleton = COCO) -> CocoAnnotations:
    """Read and check a COCO keypoints file (https://cocodataset.org/#format-data).

    Persons, or whatever the skeleton is of, are annotations of one category: see `persons_of`.
    An annotation without `keypoints` is a person whose joints are not annotated.

    Args:
        skeleton: the keypoints that the category must have, in this order.
    Raises:
        UserError: lists every problem with its first offenders and their number: not JSON, missing
            tables or keys, NaN, duplicate ids, unknown images, another skeleton.
    """
    path = Path(path)
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a COCO file: expected an object, found {kind_of(document)}")
    problems = Problems()
    for table in ("images", "annotations", "categories"):
        if not isinstance(document.get(table), list):
            problems.add(f"'{table}' must be a list, found {kind_of(document.get(table))}")
    problems.stop(path, "not a COCO keypoints file")
    if is_wholebody(skeleton):
        document = join_parts(document, skeleton, problems)
    categories = person_categories(document["categories"], skeleton, problems)
    problems.stop(path, "not a COCO keypoints file")
    category_ids = tuple(c["id"] for c in categories)
    images = _images(document["images"], document.get("licenses"), problems)
    annotations, notes = _annotations(document["annotations"], category_ids, skeleton, problems)
    problems.stop(path, "unusable annotations")
    if images["crowd_index"] is not None:
        annotations["areas"] = person_areas(annotations["boxes_xywh"])
        notes = []

    index_of = {image_id: index for index, image_id in enumerate(images["image_ids"].tolist())}
    image_ids = annotations.pop("image_ids")
    image_index = np.array([index_of.get(i, -1) for i in image_ids.tolist()], dtype=np.int64)
    problems.add(
        "annotations of an image_id that 'images' does not have",
        (
            f"annotation {ann_id} (image {image_id})"
            for ann_id, image_id in zip(
                annotations["ann_ids"][image_index < 0], image_ids[image_index < 0], strict=True
            )
        ),
    )
    problems.stop(path, "unusable annotations")
    return CocoAnnotations(
        path=path,
        person_category=categories[0],
        category_ids=category_ids,
        skeleton=skeleton,
        notes=(*notes_on(categories, skeleton), *notes),
        ann_image_index=image_index,
        **images,
        **annotations,
    )


def load_file_names(path: Path) -> tuple[str, ...]:
    """Read the file names of the images of a COCO file, whatever its keypoints are.

    Raises:
        UserError: it is not a COCO file.
    """
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    problems = Problems()
    if not isinstance(images, list):
        problems.add(f"'images' must be a list, found {kind_of(images)}")
    problems.stop(path, "not a COCO keypoints file")
    names: tuple[str, ...] = _images(images or [], None, problems)["file_names"]
    problems.stop(path, "unusable images")
    return names


# --------------------------------------------------------------------------------------- parsing


def _images(images: list[Any], licenses: Any, problems: Problems) -> dict[str, Any]:
    names = [_name("image", value, i) for i, value in enumerate(images)]
    rows = [value if isinstance(value, dict) else {} for value in images]
    if not rows:
        problems.add("'images' is empty")
    ids = integers([row.get("id") for row in rows], "id", names, problems, unique="image ids")
    file_names = [row.get("file_name") for row in rows]
    problems.add(
        "images without a file_name",
        (n for n, file in zip(names, file_names, strict=True) if not file or type(file) is not str),
    )
    sizes = [[row.get("width"), row.get("height")] for row in rows]
    good = [
        all(isinstance(v, int | float) and 1 <= v < 2**31 and v % 1 == 0 for v in s) for s in sizes
    ]
    problems.add(
        "images without a valid width and height (pixels)",
        (f"{n}: {s[0]} x {s[1]}" for n, s, ok in zip(names, sizes, good, strict=True) if not ok),
    )
    table = [
        row for row in as_list(licenses) if isinstance(row, dict) and type(row.get("id")) is int
    ]
    return {
        "image_ids": ids,
        "file_names": tuple(str(name) for name in file_names),
        "image_sizes_wh": np.array(
            [size if ok else (1, 1) for size, ok in zip(sizes, good, strict=True)], dtype=np.int64
        ).reshape(-1, 2),
        "image_licenses": np.array(
            [row["license"] if is_integer(row.get("license")) else -1 for row in rows],
            dtype=np.int64,
        ),
        "licenses": {row["id"]: f"{row.get('name')} ({row.get('url')})" for row in table},
        "crowd_index": crowd_indices(rows, names, problems),
    }


def _annotations(
    annotations: list[Any], category_ids: tuple[int, ...], skeleton: Skeleton, problems: Problems
) -> tuple[dict[str, Any], list[str]]:
    """The arrays of these categories (`image_ids` instead of `ann_image_index`), and the notes."""
    num_joints, is_coco = skeleton.num_keypoints, skeleton.is_coco
    wrong = [i for i, a in enumerate(annotations) if not isinstance(a, dict)]
    problems.add("annotations that are no objects", (f"index {i}" for i in wrong))
    position, others = [], []
    for i, row in enumerate(annotations):
        if isinstance(row, dict):
            if row.get("category_id", category_ids[0]) in category_ids:
                position.append(i)
            else:
                others.append(row)
    rows = [annotations[i] for i in position]
    names = [_name("annotation", row, i) for i, row in zip(position, rows, strict=True)]
    problems.add(
        "annotations without category_id",
        (n for n, row in zip(names, rows, strict=True) if "category_id" not in row),
    )
    ids = integers([row.get("id") for row in rows], "id", names, problems, unique="annotation ids")
    not_annotated = [0.0] * (num_joints * 3)
    triples = [row.get("keypoints", not_annotated) for row in rows]
    lengths = [
        f"{name} ({len(triple)} numbers)"
        if isinstance(triple, list) and len(triple) != num_joints * 3
        else name
        for name, triple in zip(names, triples, strict=True)
    ]
    keypoints = floats(triples, num_joints * 3, "keypoints", lengths, problems)
    keypoints = keypoints.reshape(-1, num_joints, 3)
    labelled = (keypoints[:, :, 2] > 0).sum(axis=1).tolist()
    counts = [row.get("num_keypoints", count) for row, count in zip(rows, labelled, strict=True)]
    problems.add(
        "annotations with negative visibility flags",
        (names[int(i)] for i in np.flatnonzero((keypoints[:, :, 2] < 0).any(axis=1))),
    )
    crowds = integers([row.get("iscrowd", 0) for row in rows], "iscrowd", names, problems)
    meaning = "[x, y, width, height]; the extent of the joints and a margin will do"
    boxes = floats([row.get("bbox") for row in rows], 4, "bbox", names, problems, meaning)
    # mmpose trains without areas, but COCOeval requires them: OKS is relative to the area.
    stated = np.array(["area" in row for row in rows], dtype=bool)
    areas = floats([[row.get("area", 0)] for row in rows], 1, "area", names, problems)[:, 0]
    areas = np.where(stated, areas, np.maximum(0, boxes[:, 2]) * np.maximum(0, boxes[:, 3]))
    notes = []
    if not stated.all():
        notes.append(
            f"{np.sum(~stated)} annotations have no area: width x height of the box is taken; "
            "COCO's is the segment's, about half of that, so that AP is a little higher here"
        )
    return {
        "ann_ids": ids,
        "image_ids": integers([row.get("image_id") for row in rows], "image_id", names, problems),
        "boxes_xywh": boxes,
        "areas": areas,
        "iscrowd": crowds != 0,
        "num_keypoints": integers(counts, "num_keypoints", names, problems),
        "keypoints": keypoints,
        # COCO's persons get no PCKh; files may have heads in forms of their own.
        "head_sizes": None if is_coco else head_sizes(rows, names, problems),
        "others": count_others(others),
    }, notes


def _name(what: str, value: Any, position: int) -> str:
    known = isinstance(value, dict) and "id" in value
    return f"{what} {describe(value['id']):.40}" if known else f"{what} at index {position}"
