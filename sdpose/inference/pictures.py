"""What a user points at: an image, a folder of images, or a video."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.data.images import read_image
from sdpose.errors import UserError
from sdpose.files import matching

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


@dataclass(frozen=True)
class Picture:
    """One image file or video frame; pixels are (H, W, 3) uint8 RGB."""

    name: str  # of the file; of a frame: VIDEO.000123
    number: int  # in the file's name, as COCO has it, -1 if there is none; of a frame: its index
    image_id: int  # the number if it tells all pictures apart, else the position, from 0
    pixels: NDArray[np.uint8]


class Source:
    """Pictures one after the other; only one is in memory. `total` is None if it is not known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_video = path.suffix.lower() in VIDEOS
        self.frames_per_second = 0.0
        self.total: int | None = None
        self._files: list[Path] = []
        if path.is_dir():
            self._files = sorted(p for p in matching(path, "*") if p.suffix.lower() in IMAGES)
            if not self._files:
                raise UserError(f"{path} holds no images ({', '.join(sorted(IMAGES))})")
        elif not path.is_file():
            raise UserError(f"no such image, folder or video: {path}")
        elif self.is_video:
            with _video(path) as video:
                self.frames_per_second = video.get(cv2.CAP_PROP_FPS) or 25.0
                self.total = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) or None
        else:
            self._files = [path]
        if not self.is_video:
            self.total = len(self._files)

    def __iter__(self) -> Iterator[Picture]:
        if not self.is_video:
            numbers = [_number(path) for path in self._files]
            distinct = len(set(numbers)) == len(numbers) and min(numbers) >= 0
            for index, (path, number) in enumerate(zip(self._files, numbers, strict=True)):
                image_id = number if distinct else index
                yield Picture(path.name, number, image_id, read_image(path))
            return
        with _video(self.path) as video:
            index = 0
            while True:
                found, frame = video.read()
                if not found:
                    return
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                name = f"{self.path.stem}.{index:06d}"
                yield Picture(name, index, index, np.asarray(rgb, np.uint8))
                index += 1


def _number(path: Path) -> int:
    """All digits of the name; -1 if it has none.

    >>> _number(Path("000000000139.jpg")), _number(Path("12 m\N{SUPERSCRIPT TWO}.jpg"))
    (139, 12)
    """
    # Not isdigit(): that is also true of digits that int() does not know.
    return int("".join(re.findall("[0-9]", path.stem)) or -1)


@contextlib.contextmanager
def _video(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path} is no video that OpenCV can read")
        yield capture
    finally:
        capture.release()
