"""Any value of an annotation or detection file replaced by any other: it is read, or refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdpose.checks.quick_check import quick_check
from sdpose.config import parse_experiment
from sdpose.config.schema import COCO
from sdpose.data.coco import load_annotations
from sdpose.data.detections import load_detections
from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco
from sdpose.prepare.splits import Split

VALUES = (
    *(None, True, 0, -1, 0.5, 2**70, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "\ud800", "\0", [], [None], [[1, 2]], {}, {"a": 1}),
)
NAMES = (
    *("a\0b", "\ud800.jpg", "x" * 5000, "..", ".", "/", "a/", "\\", "C:\\1.jpg", "images"),
    *("/dev/zero", "/dev/stdin", "/proc/self/mem", "//x", "a\nb.jpg"),
)


def document() -> dict[str, Any]:
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 700.0}
    person |= {"iscrowd": 0, "num_keypoints": 17, "keypoints": [20, 30, 2] * 17}
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 60, "height": 80, "license": 4}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
        "licenses": [{"id": 4, "name": "CC", "url": "u"}],
        "annotations": [person, person | {"id": 2}, person | {"id": 3, "category_id": 2}],
    }


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*place, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):
            yield from places(value[index], (*place, index))


def changed(whole: Any) -> Iterator[Any]:
    for place in places(whole):
        for value in VALUES:
            root = [copy.deepcopy(whole)]
            node: Any = root
            for key in (0, *place)[:-1]:
                node = node[key]
            node[(0, *place)[-1]] = value
            yield root[0]


@pytest.mark.filterwarnings("error")
def test_every_value_of_an_annotation_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number, content in enumerate(changed(document())):
        path.write_text(json.dumps(content))
        try:
            split = Split("a.json", "images", load_annotations(path))
            split.warnings({})
            split.without_persons({})
        except UserError as refused:
            assert str(refused).startswith(str(path)), number  # noqa: PT017


@pytest.mark.filterwarnings("error")
def test_every_value_of_a_detection_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document()))
    annotations = load_annotations(tmp_path / "a.json")
    path = tmp_path / "det.json"
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    for number, content in enumerate(changed([row, dict(row)])):
        path.write_text(json.dumps(content))
        try:
            load_detections(path, annotations)
        except UserError as refused:
            assert str(refused).startswith(str(path)), number  # noqa: PT017


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    photo = cv2.imencode(".jpg", np.zeros((80, 60, 3), np.uint8))[1].tobytes()
    (root / "images/1.jpg").write_bytes(photo)
    for name in ("train.json", "val.json"):
        (root / name).write_text(json.dumps(document()))
    return root


@pytest.mark.parametrize("prefix", ["images", "", "/", "../data/images"])
def test_any_file_name(root: Path, prefix: str) -> None:
    """What no file can be called, devices that never end, folders: named, not tried."""
    splits = {n: {"ann_file": f"{n}.json", "img_prefix": "images"} for n in ("train", "val")}
    splits["train"]["img_prefix"] = prefix
    experiment = parse_experiment({"exp_name": "x", "data_root": str(root), "data": splits})
    for name in NAMES:
        content = document()
        content["images"][0]["file_name"] = name
        (root / "train.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="1 of 2 images are unusable"):
            prepare_coco(experiment)
        assert quick_check(experiment).problems
