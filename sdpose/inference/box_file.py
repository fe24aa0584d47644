"""Boxes of a COCO file for the pictures that a user has: annotations, or a detector's results."""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdpose.config.schema import COCO, Skeleton
from sdpose.data.categories import are_one, categories_of, persons_of
from sdpose.data.tables import read_json
from sdpose.documents import describe
from sdpose.errors import UserError
from sdpose.inference.boxes import PERSON, Boxes
from sdpose.inference.pictures import Picture, Source, number_in


@dataclass(frozen=True)
class _Named:
    """An image of the annotations."""

    file_name: str
    image_id: int
    tail: tuple[str, ...]
    """The parts of the name, the last one first."""


class BoxFile:
    """Boxes of persons by image id.

    Annotations name images: a picture is the image whose name its path shares the longest end with.
    A list of results has ids alone: that is the number in the file's name (000000000139.jpg is
    image 139), or of the frame, from 0.

    Raises:
        UserError: no such file, it holds something else, or two readings of it are possible.
    """

    def __init__(self, path: Path, source: Source, skeleton: Skeleton = COCO) -> None:
        """skeleton: of what is looked for; the category of the boxes has it, if any has."""
        self._path = path
        self._skeleton = skeleton
        content = read_json(path)
        images, rows, categories = None, content, None
        if isinstance(content, dict):
            images, rows = content.get("images"), content.get("annotations")
            categories = content.get("categories")
        if not isinstance(rows, list) or not (content is rows or isinstance(images, list)):
            raise UserError(
                f"{path} holds no boxes; expected COCO annotations, or a list of "
                "{image_id, bbox: [x, y, width, height], score}"
            )
        self._categories = self._person_categories(categories, rows)
        self.category = self._categories[0]  # of the results
        self._boxes: dict[int, list[tuple[list[float], float]]] = {}
        self._num_empty = 0
        for index, row in enumerate(rows):
            self._add(index, row)
        self._has_names = images is not None
        self._images: dict[str, list[_Named]] = {}  # by the last part of the name
        for index, image in enumerate(images or []):
            self._name(index, image)
        self._elsewhere: list[str] = []
        self._asked: dict[int, str] = {}  # the picture that has the boxes
        self._without: list[str] = []
        self._id_of = {file.name: self._match(file.absolute(), file.name) for file in source.files}
        if not self._has_names:
            self._id_of = {file.name: number_in(file) for file in source.files}
        for name, image_id in self._id_of.items():
            self._take(name, image_id)

    @property
    def ids(self) -> str:
        """What `image_id` is, for people."""
        return f"those of {self._path}"

    def __call__(self, picture: Picture) -> Boxes:
        if picture.name in self._id_of:
            image_id = self._id_of[picture.name]
        else:  # a frame
            image_id = self._match(PurePosixPath(picture.name), picture.name)
            image_id = picture.number if image_id is None else image_id
            self._take(picture.name, image_id)
        rows = [] if image_id is None else self._boxes.get(image_id, [])
        boxes = np.array([box for box, _ in rows], np.float64).reshape(-1, 4)
        scores = np.array([score for _, score in rows], np.float64)
        known = picture.image_id if image_id is None else image_id
        return Boxes(boxes, scores, known, self.category)

    def notes(self) -> list[str]:
        """What does not fit together, when all pictures have been asked for."""
        notes = []
        pictures = len(self._asked) + len(self._without)
        if self._without:
            notes.append(
                f"{len(self._without)} of {pictures} pictures have no boxes in {self._path}: "
                f"{_some(self._without)}"
            )
        unused = self._boxes.keys() - self._asked.keys()
        if unused:
            names = {n.image_id: n.file_name for named in self._images.values() for n in named}
            shown = [f"image {i}" + (f" {names[i]}" if i in names else "") for i in sorted(unused)]
            count = sum(len(self._boxes[i]) for i in unused)
            notes.append(
                f"boxes of {self._path} that belong to no picture here: {count} ({_some(shown)})"
            )
        if self._elsewhere:
            notes.append(
                f"pictures in another folder than {self._path} says, matched by the end of their "
                f"paths: {len(self._elsewhere)} ({_some(self._elsewhere)})"
            )
        if self._num_empty:
            notes.append(
                f"boxes of {self._path} without width or height, left out: {self._num_empty}"
            )
        return notes

    def _person_categories(self, categories: Any, rows: Sequence[Any]) -> list[int]:
        """Of the file's categories as `load_annotations` chooses; without any, of the rows' ids."""
        entries = categories_of(categories if isinstance(categories, list) else [])
        for chosen in (persons_of(entries, self._skeleton), entries):
            if are_one(chosen, self._skeleton):
                return [int(category["id"]) for category in chosen]
        if entries:
            found = ", ".join(f"{c['id']} {describe(c.get('name'))}" for c in entries[:10])
            raise UserError(
                f"{self._path}: 'categories' must have exactly one category 'person', found {found}"
            )
        ids = set()
        for row in rows:
            with contextlib.suppress(ValueError, AttributeError):  # `_add` reports them
                ids.add(_integer(row.get("category_id", PERSON)))
        # COCO counts from 1. Where there is a 0, 1 is the second category of a detector.
        usual = (0, PERSON) if self._skeleton.keypoints == COCO.keypoints else ()
        for category in (*usual, *(ids if len(ids) == 1 else ())):
            if category in ids:
                return [category]
        if ids:
            raise UserError(
                f"{self._path}: which category_id is a person? Found {sorted(ids)[:10]}; leave the "
                "others out, or give annotations with 'categories'"
            )
        return [PERSON]

    def _add(self, index: int, row: Any) -> None:
        try:
            if _integer(row.get("category_id", self.category)) not in self._categories:
                return
            image_id, box = _integer(row["image_id"]), [_finite(v) for v in row["bbox"]]
            if len(box) != 4:
                raise ValueError(f"a bbox has 4 numbers, not {len(box)}")
            score = _finite(row.get("score", 1.0))
            if row.get("iscrowd"):
                return
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"{self._path}: box {index} ({describe(row)}): {reason}; expected "
                "{image_id, bbox: [x, y, width, height], score}"
            ) from None
        if box[2] > 0 and box[3] > 0:
            self._boxes.setdefault(image_id, []).append((box, score))
        else:
            self._num_empty += 1

    def _name(self, index: int, image: Any) -> None:
        try:
            name, image_id = str(image["file_name"]), _integer(image["id"])
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{self._path}: images[{index}] is {describe(image)}; expected {{id, file_name}}"
            ) from None
        tail = _tail(name)
        self._images.setdefault(tail[0] if tail else "", []).append(_Named(name, image_id, tail))

    def _match(self, path: Path | PurePosixPath, name: str) -> int | None:
        """The id of the image that a picture is; None if the file does not name it."""
        tail = _tail(str(path))
        named = self._images.get(tail[0], [])
        if not named:
            return None
        shared = [_common(tail, image.tail) for image in named]
        best = [n for n, length in zip(named, shared, strict=True) if length == max(shared)]
        if len(best) > 1:
            both = " or ".join(f"{n.file_name} (image {n.image_id})" for n in best[:3])
            raise UserError(
                f"{self._path}: {path} can be {both}; leave all but one out of the "
                "file, or put the picture into a folder that the file names"
            )
        if max(shared) < len(best[0].tail):
            self._elsewhere.append(f"{name}: {best[0].file_name}")
        return best[0].image_id

    def _take(self, name: str, image_id: int | None) -> None:
        if image_id is None or image_id not in self._boxes:
            self._without.append(name)
            return
        other = self._asked.setdefault(image_id, name)
        if other != name:
            raise UserError(
                f"{self._path}: {other} and {name} are both image {image_id}; give annotations "
                "that name the files (images: [{id, file_name}])"
            )


def _tail(name: str) -> tuple[str, ...]:
    """Windows writes backslashes, and macOS decomposes letters."""
    parts = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).parts
    return tuple(reversed(parts))


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    count = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (" ..." if len(texts) > 3 else "")


def _integer(value: Any) -> int:
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and number != value):
        raise ValueError(f"{describe(value)} is no integer")
    return number


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{describe(value)} is no finite number")
    return number
