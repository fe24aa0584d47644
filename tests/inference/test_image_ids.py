"""Results name pictures as the file of boxes does, so that they can be evaluated against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sdpose.cli import cli
from sdpose.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        cv2.imwrite(str(folder / name), np.full((64, 48, 3), 90, np.uint8))
    return folder


def results(checkpoint: Path, source: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    words = ["predict", str(checkpoint), str(source), "--out", str(out), "--no-draw", *more]
    done = CliRunner().invoke(cli, words)
    if done.exception:
        raise done.exception
    return json.loads((out / "results.json").read_text())


def boxes_file(path: Path, content: Any) -> tuple[str, str]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return "--boxes", str(path)


def annotations(ids: dict[str, int]) -> dict[str, Any]:
    joints = [20.0, 20.0, 2.0] * 17
    return {
        "images": [
            {"id": i, "file_name": f"val/{name}", "width": 48, "height": 64}
            for name, i in ids.items()
        ],
        "annotations": [
            {
                **{"id": n, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 900.0},
                **{"bbox": [5, 5, 30, 30], "keypoints": joints, "num_keypoints": 17},
            }
            for n, i in enumerate(ids.values(), start=1)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


@pytest.mark.parametrize("category", [1, 7])
def test_ids_of_annotations(category: int, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    ids = {"c.jpg": 500001, "b.jpg": 500002, "a.jpg": 500007}
    truth, content = tmp_path / "gt.json", annotations(ids)
    for row in content["annotations"]:
        row["category_id"] = category
    content["categories"] = [{"id": 9, "name": "forklift"}, {"id": category, "name": "person"}]
    found = results(checkpoint, photos, tmp_path / "out", *boxes_file(truth, content))
    assert {row["file_name"]: row["image_id"] for row in found} == ids
    coco = COCO(str(truth))
    evaluated = COCOeval(coco, coco.loadRes(str(tmp_path / "out/results.json")), "keypoints")
    evaluated.evaluate()
    assert sum(len(image["dtIds"]) for image in evaluated.evalImgs if image) >= 3


def test_ids_of_a_list_of_detections(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    for old, new in (("a", "000000000139"), ("b", "000000000285"), ("c", "x")):
        (photos / f"{old}.jpg").rename(photos / f"{new}.jpg")
    rows = [{"image_id": i, "bbox": [5, 5, 30, 30], "score": 0.5} for i in (285, 139)]
    found = results(checkpoint, photos, tmp_path / "out", *boxes_file(tmp_path / "b.json", rows))
    assert [row["image_id"] for row in found] == [139, 285]


def test_one_id_for_two_pictures_is_refused(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").rename(photos / "left7.jpg")
    (photos / "b.jpg").rename(photos / "right7.jpg")
    rows = [{"image_id": 7, "bbox": [5, 5, 30, 30]}]
    with pytest.raises(UserError, match=r"left7.jpg and right7.jpg are both image 7"):
        results(checkpoint, photos, tmp_path / "out", *boxes_file(tmp_path / "b.json", rows))
    twice = annotations({"c.jpg": 1})
    twice["images"].append({"id": 2, "file_name": "train/c.jpg"})
    with pytest.raises(UserError, match=r"c.jpg can be val/c.jpg \(image 1\) or train/c.jpg"):
        results(checkpoint, photos, tmp_path / "out", *boxes_file(tmp_path / "b.json", twice))


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("000000000139.jpg", "000000000285.jpg", "7.jpg"), [139, 285, 7]),
        (("a1.jpg", "b1.jpg", "c2.jpg"), [0, 1, 2]),  # one number twice
        (("1.jpg", "2.jpg", "x.jpg"), [0, 1, 2]),  # one without a number
    ],
)
def test_ids_without_a_file_of_boxes(
    names: tuple[str, ...], ids: list[int], checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    for old, new in zip("abc", names, strict=True):
        (photos / f"{old}.jpg").rename(photos / new)
    found = results(checkpoint, photos, tmp_path / "out")
    assert [row["image_id"] for row in found] == ids


def test_digits_that_are_no_numbers(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    for old, new in (("a", "x²"), ("b", "①번"), ("c", "area 12 m²")):
        (photos / f"{old}.jpg").rename(photos / f"{new}.jpg")
    assert len(results(checkpoint, photos, tmp_path / "out")) == 3


@pytest.mark.parametrize(
    "content",
    [
        *("null", "5", "[5]", '"x"', "{bad", "[" * 100_000, "{}", '{"images": 5}'),
        '[{"image_id": "²", "bbox": [1, 2, 3, 4]}]',
        '[{"image_id": 1e999, "bbox": [1, 2, 3, 4]}]',
        '[{"image_id": 1, "bbox": [1, 2, 3]}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 1e999]}]',
        '[{"image_id": 1, "bbox": [1, 2, NaN, 4]}]',
        '[{"image_id": 1, "bbox": 7}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]',
        f'[{{"image_id": {"9" * 5000}, "bbox": [1, 2, 3, 4]}}]',
    ],
)
def test_a_malformed_file_of_boxes(
    content: str, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"b\.json"):
        results(checkpoint, photos, tmp_path / "out", *boxes_file(tmp_path / "b.json", content))
