"""Pictures, videos and files of boxes as users have them: `../shared/cases/data`, one row each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdpose.cli import cli
from sdpose.errors import UserError


@dataclass(frozen=True)
class Case:
    source: str
    boxes: str = ""
    pictures: int = 0
    persons: int = 0
    ids: tuple[int, ...] = ()
    """Of all results, in order; () is not compared."""
    drawn: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    """Parts of the warnings, in order; every warning is in the list."""
    error: str = ""
    """A part of the message with exit code 2."""
    category: int = 1


FOUR = {"pictures": 4, "persons": 4}
CASES = {
    "40-jfif-photo": Case("photo.jfif", pictures=1, persons=1, drawn=("photo.jfif.jpg",)),
    "41-folder-with-appledouble": Case("photos", pictures=3, persons=3, ids=(0, 1, 2)),
    "42-one-damaged-photo": Case(
        "photos", pictures=3, persons=3, ids=(0, 1, 3), error="1 of 4 pictures cannot be read"
    ),
    "43-superscript-name": Case("photos", pictures=2, persons=2, ids=(0, 1)),
    "44-boxes-category-zero": Case(
        "photos", "boxes.json", pictures=3, persons=3, ids=(0, 1, 2), category=0
    ),
    "45-boxes-same-name-two-folders": Case(
        "cam2", "boxes.json", pictures=1, persons=1, ids=(2,), says=("image 1 cam1/0001.jpg",)
    ),
    "46-coco-ids-in-results": Case("photos", "gt.json", pictures=3, persons=3, ids=(501, 502, 503)),
    "47-boxes-bom": Case("photos", "boxes.json", pictures=1, persons=1, ids=(1,)),
    "48-folder-of-subfolders": Case("photos", error="name one of its folders: a, b"),
    "49-directory-named-jpg": Case("photos", pictures=1, persons=1, ids=(1,)),
    "50-image-kinds": Case("photos", pictures=6, persons=6, error="f.tiff"),
    "53-number-twice-in-name": Case("photos", "boxes.json", pictures=1, persons=1, ids=(7,)),
    "54-cp949-file-name": Case(
        "photos", pictures=1, persons=1, drawn=(os.fsdecode("작업자.jpg".encode("cp949")),)
    ),
    **{
        f"51-video/{name}": Case(name, pictures=6, persons=6, ids=tuple(range(6)), drawn=(drawn,))
        for name, drawn in (
            ("a.mp4", "a.mp4"),
            ("UPPER.MOV", "UPPER.mp4"),
            ("fast.avi", "fast.mp4"),
            ("slow.avi", "slow.mp4"),
            ("odd.avi", "odd.mp4"),
            ("rotated.mp4", "rotated.mp4"),
        )
    },
    "51-video/truncated.avi": Case(
        "truncated.avi", pictures=3, persons=3, says=("ends after 3 of the 6 frames",)
    ),
    "51-video/cut.mp4": Case("cut.mp4", error="no image or video that OpenCV can read"),
    "51-video/text.mp4": Case("text.mp4", error="no image or video that OpenCV can read"),
    **{
        f"56-video-other-suffixes/clip.{suffix}": Case(
            f"clip.{suffix}", pictures=3, persons=3, drawn=("clip.mp4",)
        )
        for suffix in ("mpg", "wmv", "flv", "3gp")
    },
    # Annotations of a dataset as a file of boxes.
    "05-supercategory-first": Case("images", "labels/val.json", **FOUR),
    "06-category-zero": Case("images", "labels/val.json", **FOUR, category=0),
    "04-category-id-text": Case("images", "labels/val.json", **FOUR),
    "09-float-ids": Case("images", "labels/val.json", **FOUR, ids=(1, 2, 3, 4)),
    "10-text-ids": Case("images", "labels/val.json", **FOUR, ids=(1, 2, 3, 4)),
    "11-bbox-null": Case("images", "labels/val.json", error="box 0"),
    "12-no-bbox-keypoints-only": Case("images", "labels/val.json", error="no 'bbox'"),
    "15-rle": Case("images", "labels/val.json", pictures=4, persons=3, says=("1 of 4 pictures",)),
    "16-subfolders": Case(
        "images/cam1",
        "labels/val.json",
        pictures=2,
        persons=2,
        ids=(2, 4),
        says=("no picture here: 2 (image 1 cam0/0000.jpg, image 3",),
    ),
    "17-korean-space": Case(
        "images", "labels/val.json", pictures=8, persons=4, says=("4 of 8 pictures",)
    ),
    "18-backslash": Case("images/cam0", "labels/val.json", **FOUR, ids=(1, 2, 3, 4)),
    "19-upper-JPG": Case("images", "labels/val.json", **FOUR),
    "20-absolute-file-name": Case("images", "labels/val.json", **FOUR),
    "21-prefix-empty": Case("", "labels/val.json", **FOUR),
    "22-json-bom": Case("images", "labels/val.json", **FOUR),
    "24-val-without-persons": Case(
        "images", "labels/val.json", pictures=4, says=("4 of 4 pictures",)
    ),
    "28-no-categories": Case("images", "labels/val.json", **FOUR),
    "30-outside-negative": Case("images", "labels/val.json", **FOUR),
    "31-same-file-twice": Case("images", "labels/val.json", error="(image 1) or 000001.jpg"),
    "34-null-flags": Case("images", "labels/val.json", **FOUR),
    "36-no-image-size": Case("images", "labels/val.json", **FOUR),
    "37-exif-6-annotated-as-stored": Case("images", "labels/val.json", **FOUR),
    "39-png-rgba-16bit": Case("images", "labels/val.json", **FOUR),
    "55-macos-nfd-names": Case(
        "images", "labels/val.json", pictures=8, persons=4, says=("4 of 8 pictures",)
    ),
    "57-cp949-names-in-json": Case(
        "images", "labels/val.json", pictures=8, persons=4, says=("4 of 8 pictures",)
    ),
    # Results of a detector.
    "A0-det-ok": Case("images", "det.json", **FOUR, ids=(1, 2, 3, 4)),
    "A1-det-empty": Case("images", "det.json", pictures=4, says=("4 of 4 pictures",)),
    "A2-det-one-image-only": Case(
        "images", "det.json", pictures=4, persons=1, says=("3 of 4 pictures have no boxes",)
    ),
    "A3-det-text-image-ids": Case("images", "det.json", **FOUR, ids=(1, 2, 3, 4)),
    "A4-det-category-zero": Case("images", "det.json", **FOUR, category=0),
    "A5-det-file-stem-ids": Case("images", "det.json", **FOUR, ids=(1, 2, 3, 4)),
    "A6-det-score-null": Case("images", "det.json", error="nothing (null) is no finite number"),
    "A7-det-five-numbers": Case("images", "det.json", error="a bbox has 4 numbers, not 5"),
    "A8-det-coco-object": Case("images", "det.json", **FOUR, ids=(1, 2, 3, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_own_files(name: str, cases: Path, checkpoint: Path, tmp_path: Path) -> None:
    case, folder = CASES[name], cases / name.partition("/")[0]
    words = ["predict", str(checkpoint), str(folder / case.source), "--out", str(tmp_path)]
    if case.boxes:
        words += ["--boxes", str(folder / case.boxes)]
    done = CliRunner().invoke(cli, [*words, "--json"])
    if case.error:
        assert isinstance(done.exception, UserError), done.exception
        assert case.error in str(done.exception)
    else:
        assert done.exception is None, done.exception
    path = tmp_path / "results.json"
    if not case.pictures:
        assert not path.exists()
        return
    results = json.loads(path.read_bytes())
    told = json.loads(done.stdout)
    assert done.stderr.count(f"{checkpoint}: ") == done.stderr.count(" tensors loaded (") == 1
    assert (told["pictures"], told["persons"]) == (case.pictures, case.persons)
    assert len(results) == case.persons
    assert {row["category_id"] for row in results} <= {case.category}
    if case.ids:
        assert tuple(row["image_id"] for row in results) == case.ids
    assert len(told["warnings"]) == len(case.says), told["warnings"]
    assert all(part in text for part, text in zip(case.says, told["warnings"], strict=True))
    if case.drawn:
        assert sorted(os.listdir(tmp_path)) == sorted(
            ["results.json", "skeleton.yaml", *case.drawn]
        )
