"""What a user points at: an image, a folder of images, or a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sdpose.data.images import ImageError, read_image
from sdpose.errors import UserError
from sdpose.files import atomic_file, matching
from sdpose.inference.video import VideoReader, holds_image

# What is drawn on these is written under the same name; other images get a ".jpg" behind theirs.
WRITTEN = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"})
IMAGES = WRITTEN | {".jfif", ".avif", ".jp2", ".ppm"}
_LONGEST_NUMBER = 18  # digits; more do not fit into what evaluates results


@dataclass(frozen=True)
class Picture:
    """One image file or video frame; pixels are (H, W, 3) uint8 RGB."""

    name: str  # of the file; of a frame: VIDEO.000123
    number: int  # of the file (`number_in`); of a frame: its index
    image_id: int  # the number if it tells all pictures apart, else the position, from 0
    pixels: NDArray[np.uint8]


class Source:
    """Pictures one after the other; only one is in memory.

    `unreadable` and `notes` fill while it is read: one line for each file that was passed over,
    and what else the user must know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[Path] = []
        self.video: VideoReader | None = None
        self.unreadable: list[str] = []
        self.notes: list[str] = []
        if path.is_dir():
            self.files = _images_of(path)
        elif not path.is_file():
            raise UserError(f"no such image, folder or video: {path}")
        # An animation opens as an image, too, of which there would be the first frame only.
        elif path.suffix.lower() in IMAGES or (path.suffix.lower() != ".gif" and holds_image(path)):
            self.files = [path]
        else:
            self.video = VideoReader(path)
        numbers = [number_in(file) for file in self.files]
        self.numbered = len(set(numbers)) == len(numbers) and min(numbers, default=-1) >= 0

    @property
    def total(self) -> int | None:
        """Of pictures; None if it is not known."""
        return len(self.files) if self.video is None else self.video.announced or None

    @property
    def ids(self) -> str:
        """What `image_id` is, for people."""
        if self.video is not None:
            return "frame numbers, from 0"
        return (
            "the numbers in the file names" if self.numbered else "positions in the folder, from 0"
        )

    def __iter__(self) -> Iterator[Picture]:
        self.unreadable.clear()
        self.notes.clear()
        yield from self._images() if self.video is None else self._frames(self.video)

    def _images(self) -> Iterator[Picture]:
        for index, path in enumerate(self.files):
            number = number_in(path)
            try:
                pixels = read_image(path)
            except ImageError as error:
                self.unreadable.append(str(error))
                continue
            yield Picture(path.name, number, number if self.numbered else index, pixels)

    def _frames(self, video: VideoReader) -> Iterator[Picture]:
        count = 0
        for count, pixels in enumerate(video, start=1):
            index = count - 1
            yield Picture(f"{self.path.stem}.{index:06d}", index, index, pixels)
        if not count:
            raise UserError(f"{self.path} has no frame that OpenCV can decode")
        if count < video.announced:
            self.notes.append(
                f"{self.path} ends after {count} of the {video.announced} frames that its header "
                "announces: it is cut off or damaged, or its frame rate varies"
            )


def _images_of(folder: Path) -> list[Path]:
    """Without hidden files: macOS leaves "._photo.jpg" beside a photo."""
    visible = [path for path in matching(folder, "*") if not path.name.startswith(".")]
    images = [p for p in visible if p.suffix.lower() in IMAGES and not p.is_dir()]
    if not images:
        folders = [path.name for path in visible if path.is_dir()]
        inside = f"; name one of its folders: {', '.join(folders[:3])}" if folders else ""
        raise UserError(f"{folder} holds no images ({', '.join(sorted(IMAGES))}){inside}")
    return images


def number_in(path: Path) -> int:
    """The last number in the name, as COCO's have it; -1 if there is none.

    >>> number_in(Path("COCO_val2014_000000000139.jpg"))
    139
    """
    # Not isdigit(): that is also true of digits that int() does not know.
    found = re.findall("[0-9]+", path.stem)
    return int(found[-1]) if found and len(found[-1]) <= _LONGEST_NUMBER else -1


def write_picture(folder: Path, name: str, pixels_HW3: NDArray[np.uint8]) -> Path:
    """Writes RGB pixels under the name, with ".jpg" behind a suffix that stands for no format."""
    suffix = Path(name).suffix.lower()
    if suffix not in WRITTEN:
        suffix, name = ".jpg", f"{name}.jpg"
    path = folder / name
    try:
        # To memory: OpenCV dies of a path that is not UTF-8.
        encoded, data = cv2.imencode(suffix, cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise UserError(f"cannot write {path}: {error.err}") from None
    if not encoded:
        raise UserError(f"cannot write {path}: OpenCV cannot encode it")
    with atomic_file(path, durable=False) as file:
        file.write(data.tobytes())
    return path
