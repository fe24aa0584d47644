"""Datasets as other tools export them (../shared/cases/data): the right answer to each.

Every case goes through prepare_coco and through doctor's look at the data.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdpose.checks.quick_check import quick_check
from sdpose.config import load_experiment
from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco

PLAIN = (4, 4, 4)  # persons to train on, to evaluate, boxes

# What is accepted: the numbers, and every remark (notes and warnings) by a part of it.
ACCEPTED: dict[str, tuple[tuple[int, int, int], list[str]]] = {
    "00-plain": (PLAIN, []),
    "01-no-area": (PLAIN, ["4 annotations have no area: width x height of the box is taken"]),
    "05-supercategory-first": (PLAIN, []),
    "06-category-zero": (PLAIN, []),
    "08-numbered-joints": (PLAIN, ["does not name its keypoints"]),
    "15-rle": ((3, 3, 3), ["left out train: 1 crowd", "left out val: 1 crowd"]),
    "16-subfolders": (PLAIN, []),
    "17-korean-space": (PLAIN, []),
    "19-upper-JPG": (PLAIN, []),
    "20-absolute-file-name": (PLAIN, []),
    "21-prefix-empty": (PLAIN, []),
    "22-json-bom": (PLAIN, []),
    "23-normalised-coordinates": (PLAIN, ["boxes and joints look normalised to 0..1: multiply"]),
    "25-one-image": ((1, 1, 1), []),
    "26-bbox-xyxy": (PLAIN, ["boxes look like [x1, y1, x2, y2]: write bbox as [x, y, width, hei"]),
    "29-category-without-keypoints": (PLAIN, ["does not name its keypoints"]),
    "30-outside-negative": (PLAIN, []),
    "31-same-file-twice": (PLAIN, []),
    "32-v-is-a-score": (PLAIN, []),
    "38-exif-3-same-size": (PLAIN, []),
    "39-png-rgba-16bit": (PLAIN, []),
    "57-cp949-names-in-json": (PLAIN, []),
    "91-yaml-bom": (PLAIN, []),
    "92-yaml-utf16": (PLAIN, []),
    "94-yaml-crlf": (PLAIN, []),
    "97-yaml-file-uri": (PLAIN, []),
    "98-yaml-is-folder": (PLAIN, []),
    "A0-det-ok": (PLAIN, []),
    "A2-det-one-image-only": ((4, 4, 1), []),
    "A9-det-xyxy": (PLAIN, ["det.json: boxes look like [x1, y1, x2, y2]"]),
}

# What is refused, by parts of the message.
REFUSED: dict[str, list[str]] = {
    "02-area-zero": ["no person with keypoints", "4 with area 0 or less", "remove the key area"],
    "04-category-id-text": ["4 whose category_id is no integer", "write it as a number"],
    "07-h36m-17-joints": ["not COCO's", "found: root, right_hip,", "COCO:  nose, left_eye,"],
    "09-float-ids": ["'id' is missing or no integer: image 1.0"],
    "10-text-ids": ["'id' is missing or no integer: image '1'"],
    "11-bbox-null": ["1 rows whose 'bbox' is missing", "annotation 1"],
    "12-no-bbox-keypoints-only": ["4 rows whose 'bbox' is missing", "[x, y, width, height]"],
    "13-keypoints-empty-list": ["'keypoints' is missing or not a list of 51 numbers: annotation 1"],
    "14-keypoints-34": ["4 rows whose 'keypoints' is missing or not a list of 51 numbers"],
    "18-backslash": ["4 of them are there under another name (back slashes): images/cam0\\0000"],
    "24-val-without-persons": ["val.json: no person with keypoints", "it has no annotations"],
    "27-num-keypoints-zero": ["4 with num_keypoints 0 although joints are labelled"],
    "28-no-categories": ["'categories' must be a list, found nothing"],
    "34-null-flags": ["'iscrowd' is missing or no integer: annotation 1 (nothing (null))"],
    "35-width-height-swapped": ["4 of them have width and height swapped"],
    "36-no-image-size": ["4 images without a valid width and height (pixels): image 1"],
    "37-exif-6-annotated-as-stored": ["80 x 64 pixels as shown, annotated as 64 x 80"],
    "55-macos-nfd-names": ["4 of them are there under another name (composed and decomposed"],
    "58-cp949-names-one-missing": ["1 of 4 images are unusable", "2.jpg: file not found"],
    "90-yaml-cp949": ["exp.yaml: not UTF-8", "it looks like cp949", "iconv -f cp949"],
    "93-yaml-tab": ["exp.yaml: not valid YAML", "line 5"],
    "95-yaml-tilde-root": ["data_root is not a folder: ", "/home/of/mine/datasets/warehouse"],
    "96-yaml-env-root": ["data_root: ${DATA}/warehouse: the variable $DATA is not set"],
    "A1-det-empty": ["det.json: no detection of category 1 (person); the list is empty"],
    "A3-det-text-image-ids": ["'image_id' is missing or no integer: index 0 ('1')"],
    "A4-det-category-zero": ["det.json: ", "category_id must be 1, found 0 (4 rows)"],
    "A5-det-file-stem-ids": ["'image_id' is missing or no integer: index 0 ('000001')"],
    "A6-det-score-null": ["'score' is missing or not a number: index 0"],
    "A7-det-five-numbers": ["'bbox' is missing or not a list of 4 numbers"],
    "A8-det-coco-object": ["expected a list of detections", "found dict"],
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", "/home/of/mine")
    monkeypatch.delenv("DATA", raising=False)


def test_every_case_has_an_answer(cases: Path) -> None:
    assert {p.parent.name for p in cases.glob("*/exp.yaml")} == {*ACCEPTED, *REFUSED}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_case_that_is_right(case: str, cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cases / case)
    experiment = load_experiment("exp.yaml")
    numbers, remarks = ACCEPTED[case]
    found = prepare_coco(experiment)
    assert (found.num_train_persons, found.num_val_persons, found.num_val_boxes) == numbers
    assert len(found.remarks()) == len(remarks)
    for remark, expected in zip(found.remarks(), remarks, strict=True):
        assert expected in remark
    assert set(found.remarks()) <= set(found.summary().splitlines())
    check = quick_check(experiment)
    assert not check.problems
    for expected in remarks:
        text = re.sub(r"left out \w+", "left out", expected)
        assert text in "\n".join([*check.lines, *check.warnings])


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_that_is_refused(case: str, cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cases / case)
    with pytest.raises(UserError) as refused:
        prepare_coco(load_experiment("exp.yaml"))
    message = str(refused.value)
    for part in REFUSED[case]:
        assert part in message
    assert "NaN" not in message
    assert "How to get COCO" not in message  # it is not COCO
    if "exp.yaml" not in message and "$DATA" not in message:
        seen = "\n".join(what for what, _ in quick_check(load_experiment("exp.yaml")).problems)
        assert all(part in seen for part in REFUSED[case])


def test_training_says_who_is_left_out(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    import torch

    from sdpose.runner.start import begin
    from sdpose.training.distributed import World

    monkeypatch.chdir(cases / "15-rle")
    experiment = load_experiment("exp.yaml", work_dir=str(tmp_path / "run"))
    begin(experiment, World(0, 1, torch.device("cpu")), overwrite=False, lease=None)
    assert "left out train: 1 crowd" in logged
