"""Image files of every kind that turns up in a data set."""

from __future__ import annotations

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from sdpose.data.images import MAX_SIDE, ImageError, decode_image, read_image, warp_crop


@pytest.fixture(scope="module")
def picture():
    """Smooth, colourful, not symmetric: (90, 120, 3) RGB."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (120, 90))


def encoded(picture, kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_photos_decode_to_the_reference_pixels(coco_4, reference_dir):
    for image in json.loads((reference_dir / "data.json").read_text())["images"].values():
        pixels = read_image(coco_4 / "val2017" / image["file"])
        assert list(pixels.shape) == image["shape"]
        assert zlib.crc32(pixels.tobytes()) == image["crc32_rgb"]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "CMYK", {"quality": 95}),
    ],
)
def test_colours_come_out_as_rgb(picture, kind, mode, options):
    pixels = decode_image(encoded(picture, kind, mode, **options), "x")
    assert pixels.dtype == np.uint8
    assert pixels.shape == picture.shape
    assert np.abs(pixels.astype(int) - picture).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_repeated(picture, kind):
    pixels = decode_image(encoded(picture, kind, "L"), "x")
    assert pixels.shape == picture.shape
    assert (pixels == pixels[..., :1]).all()


def test_sixteen_bits_are_cut_to_eight():
    values = np.random.default_rng(0).integers(0, 2**16, (20, 30)).astype(np.uint16)
    pixels = decode_image(cv2.imencode(".png", values)[1].tobytes(), "x")
    np.testing.assert_array_equal(pixels[..., 1], values >> 8)


def test_exif_orientation_is_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    pixels = decode_image(encoded(picture, "JPEG", quality=95, exif=exif), "x")
    shown = np.rot90(picture, k=-1)
    assert pixels.shape == shown.shape
    assert np.abs(pixels.astype(int) - shown).mean() < 3


@pytest.mark.parametrize("size_wh", [(1, 1), (20000, 10)])
def test_odd_sizes_can_be_cropped(size_wh):
    data = encoded(np.full((size_wh[1], size_wh[0], 3), 200, np.uint8), "PNG")
    matrix = np.array([[0.5, 0, 96], [0, 0.5, 128]])
    crop = warp_crop(decode_image(data, "x"), matrix, (192, 256))
    assert crop.shape == (256, 192, 3)
    assert crop[128, 96].tolist() == [200, 200, 200]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_ends_early_is_refused(picture, kind):
    data = encoded(picture, kind)
    for length in [*range(0, len(data), len(data) // 40), len(data) - 1]:
        with pytest.raises(ImageError, match=r"^photos/1\.jpg: "):
            decode_image(data[:length], "photos/1.jpg")


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "text.jpg").write_text("404 not found")
    for name in ("missing.jpg", "folder.jpg", "text.jpg", "null\0byte.jpg"):
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / name)
        assert name in str(error.value)


def test_what_opencv_cannot_crop_is_refused(picture):
    too_wide = encoded(np.zeros((2, MAX_SIDE + 1, 3), np.uint8), "PNG")
    with pytest.raises(ImageError, match="32767 x 2 pixels"):
        decode_image(too_wide, "x")
    bomb = bytearray(encoded(picture, "PNG"))  # says it is 60000 x 60000
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(ImageError):
        decode_image(bytes(bomb), "x")
