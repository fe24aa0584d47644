"""Decode image files, crop them, and normalise the crops to the model's input.

Files are read as in the official pipeline (mmcv, OpenCV backend): every format becomes 8-bit RGB.
Grey is repeated, CMYK is converted, 16 bits are reduced to 8, transparency is dropped, and the EXIF
orientation is applied, so that width and height are those of the image as shown. A truncated file
is an error; its missing part is not filled with grey.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# ImageNet statistics of the official configurations: RGB, for values in 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

MAX_SIDE = 32766  # cv2.warpAffine's limit


class ImageError(ValueError):
    """The file is missing or not a complete image; the message has its name and the reason."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image as [H, W, 3] uint8 RGB.

    Raises:
        ImageError: the file is missing or not a complete image.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of an image file, see `read_image`; error messages call it `name`."""
    if not data:
        raise ImageError(f"{name}: empty file")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # among others: more than 2^30 pixels
        raise ImageError(f"{name}: {error.err}") from None
    if image is None:
        raise ImageError(f"{name}: cut off, damaged, or no image that OpenCV can decode")
    if max(image.shape) > MAX_SIDE:
        height, width = image.shape[:2]
        raise ImageError(f"{name}: {width} x {height} pixels; OpenCV crops up to {MAX_SIDE} a side")
    return image


def warp_crop(
    image_HW3: NDArray[np.uint8], matrix: NDArray[np.float64], size_wh: tuple[int, int]
) -> NDArray[np.uint8]:
    """Warp to a crop [H, W, 3]: bilinear, black outside. `matrix` is geometry.crop_affine's."""
    return cv2.warpAffine(image_HW3, matrix, size_wh, flags=cv2.INTER_LINEAR)


def normalize(
    crop_HW3: NDArray[np.uint8], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Compute (value / 255 - MEAN) / STD as [3, H, W] float32, in `out` if given."""
    if out is None:
        out = np.empty((3, *crop_HW3.shape[:2]), dtype=np.float32)
    for channel, plane_HW in enumerate(cv2.split(crop_HW3)):
        cv2.LUT(plane_HW, NORMALIZED[channel], dst=out[channel])
    return out


NORMALIZED = np.stack(
    [((np.arange(256) / 255 - mean) / std) for mean, std in zip(MEAN, STD, strict=True)]
).astype(np.float32)
