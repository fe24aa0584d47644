"""Missing images that are there under a name that only looks different."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sdpose.prepare.spelling import other_spellings

NFC, NFD = (unicodedata.normalize(form, "작업자.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("on_disk", "name", "difference"),
    [
        ("images/cam0/1.jpg", "cam0\\1.jpg", "back slashes"),
        ("images/1.jpg", ".\\1.jpg", "back slashes"),
        ("images/1.JPG", "1.jpg", "small and capital letters"),
        ("Images/Cam0/1.jpg", "cam0/1.jpg", "small and capital letters"),
        (f"images/{NFD}", NFC, "composed and decomposed letters"),
        (f"images/{NFC}", NFD, "composed and decomposed letters"),
        (f"images/CAM/{NFD}", f"cam\\{NFC}", "back slashes, small and capital letters, composed"),
        ("images/cam0/1.jpg", "images/cam0/1.jpg", "img_prefix is in the name again"),
        ("images/1.jpg", "C:\\photos\\1.jpg", "other folders before it"),
        ("images/1.jpg", "/mnt/theirs/1.jpg", "other folders before it"),
        ("images/1.jpg", "upload/1.jpg", "other folders before it"),
    ],
)
def test_what_is_there_is_found(on_disk: str, name: str, difference: str, tmp_path: Path) -> None:
    (tmp_path / on_disk).parent.mkdir(parents=True)
    (tmp_path / on_disk).touch()
    wanted = name if name.startswith("/") else f"images/{name}"
    found = other_spellings(tmp_path, [wanted], "images")
    assert found[wanted][0] == on_disk
    assert found[wanted][1].startswith(difference)


@pytest.mark.parametrize("name", ["2.jpg", "cam0\\2.jpg", "C:\\2.jpg", "../2.jpg", "", "\\"])
def test_what_is_not_there_is_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").touch()
    assert other_spellings(tmp_path, [f"images/{name}x"], "images") == {}
    assert other_spellings(tmp_path / "nowhere", [name], "") == {}
