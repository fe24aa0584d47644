"""A file of boxes that holds something else is refused in one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdpose.errors import UserError
from sdpose.inference.box_file import BoxFile
from sdpose.inference.pictures import Picture, Source

DAMAGED = [
    *(b"", b"{bad", b"null", b"5", b'["x"]', b"[" * 100_000, b"\xff\xfe[\x00", b"\xe9", b"{}"),
    *(b'[{"image_id": 1}]', b'[{"image_id": 1, "bbox": 5}]', b'[{"image_id": "x", "bbox": []}]'),
    *(b'[{"image_id": Infinity, "bbox": []}]', b'[{"image_id": NaN, "bbox": []}]'),
    *(b'{"images": 5}', b'{"images": [], "annotations": [{"image_id": [], "bbox": []}]}'),
    b'[{"image_id": 1' + b"0" * 5000 + b"}]",
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_what_holds_no_boxes_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(content)
    picture = tmp_path / "a.jpg"
    picture.touch()
    with pytest.raises(UserError, match=r"boxes\.json"):
        BoxFile(path, Source(picture))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"absent\.json"):
        BoxFile(tmp_path / "absent.json", Source(tmp_path / "a.jpg"))


def boxes_of(content: Any, folder: Path, *names: str) -> tuple[dict[str, list[int]], BoxFile]:
    """The width of every box of every picture; the file."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    boxes = BoxFile(path, Source(folder))
    blank = np.zeros((1, 1, 3), np.uint8)
    return {
        name: boxes(Picture(name, -1, -1, blank)).xywh[:, 2].astype(int).tolist() for name in names
    }, boxes


def annotated(*names: str) -> dict[str, Any]:
    """Image 1, 2 ... with a box of width 1, 2 ..."""
    ids = range(1, len(names) + 1)
    return {
        "images": [{"id": i, "file_name": name} for i, name in zip(ids, names, strict=True)],
        "annotations": [{"image_id": i, "bbox": [0, 0, i, 9]} for i in ids],
    }


@pytest.mark.parametrize(
    ("names", "expected", "note"),
    [
        (("a.jpg",), [1], ""),
        (("day/cam1/a.jpg", "night/cam1/a.jpg"), [2], "no picture here: 1 (image 1 "),
        (("cam2/a.jpg", "cam1/a.jpg"), [2], "no picture here: 1 (image 1 "),
        (("C:\\photos\\night\\cam1\\a.jpg",), [1], "matched by the end of their paths: 1 (a.jpg: "),
        (("val/a.jpg",), [1], "matched by the end of their paths: 1 (a.jpg: "),
        (("b.jpg",), [], "1 of 1 pictures have no boxes in "),
    ],
)
def test_the_longest_end_of_a_path_decides(
    names: tuple[str, ...], expected: list[int], note: str, tmp_path: Path
) -> None:
    found, boxes = boxes_of(annotated(*names), tmp_path / "night/cam1", "a.jpg")
    assert found == {"a.jpg": expected}
    assert note in "".join(boxes.notes())
    assert bool(note) == bool(boxes.notes())


def test_a_number_in_a_name_is_no_image_of_annotations(tmp_path: Path) -> None:
    found, _ = boxes_of(annotated("a.jpg", "b.jpg"), tmp_path / "x", "a.jpg", "cam_2.jpg")
    assert found == {"a.jpg": [1], "cam_2.jpg": []}


@pytest.mark.parametrize(
    ("ids", "person"), [((1, 1), 1), ((1, 3), 1), ((0, 1), 0), ((7, 7), 7), (("7", 7), 7)]
)
def test_persons_of_a_detector(ids: tuple[Any, ...], person: int, tmp_path: Path) -> None:
    rows = [{"image_id": 5, "category_id": i, "bbox": [0, 0, 5, 5]} for i in ids]
    found, boxes = boxes_of(rows, tmp_path / "x", "5.jpg")
    assert boxes.category == person
    assert len(found["5.jpg"]) == sum(int(i) == person for i in ids)


@pytest.mark.parametrize(
    ("categories", "ids", "message"),
    [
        (None, (2, 3), r"which category_id is a person\? Found \[2, 3\]"),
        ([{"id": 1, "name": "head"}, {"id": 2, "name": "hand"}], (1,), "1 'head', 2 'hand'"),
    ],
)
def test_persons_that_cannot_be_told(
    categories: Any, ids: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    content: Any = [{"image_id": 1, "category_id": i, "bbox": [0, 0, 5, 5]} for i in ids]
    if categories:
        content = {"images": [], "annotations": content, "categories": categories}
    with pytest.raises(UserError, match=message):
        boxes_of(content, tmp_path / "x", "1.jpg")
