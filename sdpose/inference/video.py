"""Videos, and what OpenCV can open: it opens files by name, and some names end the process.

The only module that hands a path to OpenCV (`tests/inference/test_opencv_paths.py`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.errors import UserError

# Frames per second. MPEG-4 writes none above; damaged headers give NaN or 100,000.
DEFAULT_RATE, MAX_RATE = 25.0, 1000.0


@contextlib.contextmanager
def clean_name(path: Path) -> Iterator[str]:
    """Another name of the file, without anything that OpenCV or FFmpeg would misread.

    OpenCV 4.14 dies of a name that is not UTF-8, FFmpeg takes "http:x.mp4" for an address, and
    "%03d" stands for a series of images. The suffix stays: encoders are chosen by it.
    """
    suffix = path.suffix if path.suffix[1:].isalnum() and path.suffix.isascii() else ""
    with tempfile.TemporaryDirectory(prefix="sdpose-") as folder:
        name = Path(folder) / f"file{suffix}"
        name.symlink_to(path.absolute())
        try:
            str(name).encode()
        except UnicodeEncodeError:
            raise UserError(f"TMPDIR is {folder}, not UTF-8: set it to another folder") from None
        yield str(name)


def holds_image(path: Path) -> bool:
    """Does the file begin like an image that OpenCV reads?"""
    with clean_name(path) as name:
        try:
            return bool(cv2.haveImageReader(name))
        except cv2.error:  # a format that this OpenCV knows, and does not read: OpenEXR
            return True


class VideoReader:
    """Frames of a file, RGB, in order.

    Raises UserError if OpenCV reads no video there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.open("rb").close()  # OpenCV does not tell a file that it may not read from damage
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        with self._opened() as video:
            rate = video.get(cv2.CAP_PROP_FPS)
            self.announced = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self.frames_per_second = rate if 0 < rate <= MAX_RATE else DEFAULT_RATE

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        with self._opened() as video:
            while True:
                found, frame = video.read()
                if not found:
                    return
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        with clean_name(self._path) as name:
            capture = cv2.VideoCapture(name)
            try:
                if not capture.isOpened():
                    raise UserError(
                        f"{self._path}: cut off, damaged, or no image or video that OpenCV can read"
                    )
                yield capture
            finally:
                capture.release()


class VideoWriter:
    """MPEG-4, opened with the first frame, whose size it takes."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path = path
        self._rate = frames_per_second
        self._writer: Any = None
        self._names = contextlib.ExitStack()

    def write(self, frame_HW3: NDArray[np.uint8]) -> None:
        if self._writer is None:
            size = (frame_HW3.shape[1], frame_HW3.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            name = self._names.enter_context(clean_name(self.path))
            self._writer = cv2.VideoWriter(name, code, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(
                    f"cannot write {self.path}: {size[0]} x {size[1]} pixels, or this OpenCV has "
                    "no MPEG-4 encoder (--no-draw writes the results alone)"
                )
        self._writer.write(cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self._names.close()
