"""Annotations that would train without an error, and hardly as they were meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdpose.config.schema import COCO
from sdpose.data.coco import CocoAnnotations, load_annotations
from sdpose.data.person_rules import lost_persons
from sdpose.errors import UserError
from sdpose.prepare.plausibility import odd_boxes, odd_coordinates
from sdpose.prepare.splits import Split

WIDTH, HEIGHT = 640, 480
NUMBER = 40

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., CocoAnnotations]:
    """Persons all over the image, joints all over their boxes; `change` is made to each of them."""

    def make(change: Change = lambda person: None, every: int = 1) -> CocoAnnotations:
        rng = np.random.default_rng(0)
        people = []
        for number in range(NUMBER):
            x, y = rng.uniform(0, 400), rng.uniform(0, 200)
            width, height = rng.uniform(40, 200), rng.uniform(80, 270)
            joints = rng.uniform([x, y], [x + width, y + height], (17, 2)).round(1)
            person = {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": [value for joint in joints.tolist() for value in (*joint, 2)],
            }
            if number % every == 0:
                change(person)
            people.append(person)
        document = {
            "images": [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}],
            "categories": [{"id": 1, "name": "person", "keypoints": COCO.keypoints}],
            "annotations": people,
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(document))
        return load_annotations(path)

    return make


def put(**values: object) -> Change:
    return lambda person: person.update(values)


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        (put(area=0), "with area 0 or less", "remove the key area"),
        (put(num_keypoints=0), "with num_keypoints 0 although", "remove the key num_keypoints"),
        (put(bbox=[5, 5, 0, 40]), "whose box is empty", "[x, y, width, height]"),
        (put(bbox=[900, 5, 30, 40]), "whose box is empty", "[x, y, width, height]"),
        (put(category_id="1"), "whose category_id is no integer", "the person's is 1"),
        (put(category_id=None), "whose category_id is no integer", "the person's is 1"),
        (put(category_id=2), "of another category although", "category_id, 1"),
        (put(keypoints=[5, 5, 0] * 17, num_keypoints=0), "whose joints have coordin", "v as 2"),
        (put(iscrowd=1), "crowd", ""),
        (put(keypoints=[0] * 51, num_keypoints=0), "without labelled joints", ""),
        (put(keypoints=[0] * 51, category_id=3), "of another category", ""),
    ],
)
def test_who_is_left_out_is_counted_and_labelled_persons_are_a_warning(
    read: Callable[..., CocoAnnotations], change: Change, reason: str, remedy: str
) -> None:
    annotations = read(change, every=4)
    assert len(annotations.persons()) == NUMBER - 10
    ((found, count),) = annotations.left_out().items()
    assert found.startswith(reason)
    assert count == 10
    warnings = lost_persons(annotations.left_out(), 1)
    assert len(warnings) == bool(remedy)
    for warning in warnings:
        assert warning.startswith("10 labelled persons are left out")
        assert remedy in warning


def test_persons_that_teach_nothing_are_a_warning(read: Callable[..., CocoAnnotations]) -> None:
    split = Split("annotations.json", "images", read(put(keypoints=[5, 5, 0] * 17), every=4))
    (warning,) = split.warnings({})
    assert warning.startswith("10 persons have no joint with v > 0")


def test_an_annotation_is_counted_once(read: Callable[..., CocoAnnotations]) -> None:
    annotations = read(put(area=0, num_keypoints=0, bbox=[1, 1, 0, 0], iscrowd=1))
    assert annotations.left_out() == {"crowd": NUMBER}


def test_an_area_that_is_not_there_is_the_boxs(read: Callable[..., CocoAnnotations]) -> None:
    stated = read()
    missing = read(lambda person: person.pop("area"), every=2)
    np.testing.assert_allclose(missing.areas, stated.areas)
    assert missing.notes[0].startswith("20 annotations have no area")
    assert not stated.notes
    with pytest.raises(UserError, match="'area' is missing or not a number: annotation 0"):
        read(put(area=None))
    with pytest.raises(UserError, match="'area' is NaN or infinite: annotation 0"):
        read(put(area=float("nan")))


def boxes(layout: Callable[[float, float, float, float], list[float]]) -> Change:
    return lambda person: person.update(bbox=layout(*person["bbox"]))


def joints(layout: Callable[[float, float], tuple[float, float]]) -> Change:
    def change(person: dict[str, Any]) -> None:
        flat = person["keypoints"]
        triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        person["keypoints"] = [v for x, y, flag in triples for v in (*layout(x, y), flag)]

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (boxes(lambda x, y, w, h: [x, y, x + w, y + h]), "look like [x1, y1, x2, y2]"),
        (boxes(lambda x, y, w, h: [x, y, h, w]), "look like [x, y, height, width]"),
        (boxes(lambda x, y, w, h: [y, x, h, w]), "look like [y, x, height, width]"),
        (boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "[centre x, centre y, width,"),
        (
            boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]),
            "boxes look normalised to 0..1: multiply",
        ),
        (joints(lambda x, y: (x / WIDTH, y / HEIGHT)), "joints look normalised to 0..1"),
        (joints(lambda x, y: (y, x)), "joints look like y, x"),
        (joints(lambda x, y: (x * 3, y * 3)), "have joints outside of their box"),
    ],
)
def test_another_convention_is_named(
    read: Callable[..., CocoAnnotations], change: Change, expected: str
) -> None:
    (remark,) = odd_coordinates(read(change))
    assert expected in remark


@pytest.mark.parametrize(
    "change",
    [
        put(),
        boxes(lambda x, y, w, h: [x - 2, y - 2, w + 4, h + 4]),
        boxes(lambda x, y, w, h: [x - w, y - h, 3 * w, 3 * h]),  # generous, and clipped later
        put(keypoints=[0] * 51),
    ],
)
def test_coordinates_that_may_be_meant_are_not_remarked(
    read: Callable[..., CocoAnnotations], change: Change
) -> None:
    assert odd_coordinates(read(change, every=12)) == []


def test_coco_is_not_remarked(coco_mini: Path, coco_4: Path) -> None:
    for path in (*coco_mini.glob("annotations/person_*"), *coco_4.glob("annotations/person_*")):
        annotations = load_annotations(path)
        assert odd_coordinates(annotations) == []
        assert annotations.notes == ()
        assert lost_persons(annotations.left_out(), 1) == []


def test_odd_detections(read: Callable[..., CocoAnnotations]) -> None:
    annotations = read()
    sizes = annotations.image_sizes_wh[annotations.ann_image_index].astype(float)
    right = annotations.boxes_xywh
    corners = np.concatenate([right[:, :2], right[:, :2] + right[:, 2:]], axis=1)
    assert odd_boxes(right, sizes) == ""
    assert "[x1, y1, x2, y2]" in odd_boxes(corners, sizes)
    assert "normalised" in odd_boxes(right / 640, sizes)
