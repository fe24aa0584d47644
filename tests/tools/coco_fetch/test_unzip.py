"""Zip files that are damaged, or made to do harm, end with one message and leave nothing behind."""

from __future__ import annotations

import zipfile

import pytest

from sdpose.errors import UserError
from sdpose.tools.coco_fetch import unzip
from sdpose.tools.coco_fetch.unzip import UnusableArchiveError


def _zip(path, *names, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name in names:
            archive.writestr(name, b"content")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val2017/a", "val2017/a/b"), "both a file and a folder"),
        (("val2017/a/b", "val2017/a"), "both a file and a folder"),
        (("val2017/a/b/c", "val2017/a"), "both a file and a folder"),
        (("val2017/" + "a" * 5000,), "longer than 255 bytes"),
        (("val2017/" + "한" * 100,), "longer than 255 bytes"),
    ],
)
def test_a_zip_with_names_that_cannot_be(tmp_path, names, message):
    _zip(tmp_path / "v.zip", *names)
    with pytest.raises(UnusableArchiveError, match=message) as caught:
        unzip.unpack(tmp_path / "v.zip", tmp_path, "val2017/", tmp_path, lambda *_: None)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "val2017").exists()


def test_a_folder_that_is_in_the_way(tmp_path):
    _zip(tmp_path / "v.zip", "val2017/a.jpg")
    (tmp_path / "val2017/a.jpg").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot unpack"):
        unzip.unpack(tmp_path / "v.zip", tmp_path, "val2017/", tmp_path, lambda *_: None)


def test_an_encrypted_zip(tmp_path):
    _zip(tmp_path / "v.zip", "val2017/a.jpg")
    data = bytearray((tmp_path / "v.zip").read_bytes())
    data[6] |= 1  # the flag, in the file's header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "v.zip").write_bytes(data)
    with pytest.raises(UnusableArchiveError, match="encrypted"):
        unzip.unpack(tmp_path / "v.zip", tmp_path, "val2017/", tmp_path, lambda *_: None)


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_zip_whose_compressed_bytes_are_damaged(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "v.zip", "w", kind) as archive:
        archive.writestr("val2017/a.jpg", bytes(range(256)) * 400)
    good = (tmp_path / "v.zip").read_bytes()
    start = good.index(b"a.jpg") + 5
    for offset in (0, 4, 9):
        data = bytearray(good)
        data[start + offset : start + offset + 8] = b"\xff" * 8
        (tmp_path / "v.zip").write_bytes(data)
        with pytest.raises(UnusableArchiveError, match="damaged"):
            unzip.unpack(tmp_path / "v.zip", tmp_path, "val2017/", tmp_path, lambda *_: None)
