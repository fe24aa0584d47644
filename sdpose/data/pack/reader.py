"""Read a pack: the index, and the pixels of any region of any photo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdpose.data.coco import Persons
from sdpose.data.pack.layout import IMAGES, MANIFEST, PERSONS, Manifest, shard_name
from sdpose.errors import UserError

# Open at a time; far below the usual limit of 1024.
_OPEN_FILES = 64
_CAN_ADVISE = hasattr(os, "posix_fadvise")  # not on macOS


class ShardSource(Protocol):
    """The source of a pack whose files are not all in its folder yet."""

    def fetch(self, name: str) -> None:
        """Ensure that a file is in the folder, verified."""

    def fetch_again(self, name: str, needed: int) -> None:
        """Replace a file that has fewer bytes than `needed`."""

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetch files in the background, in this order."""

    def close(self) -> None: ...


class Pack:
    """An open pack. It can be used after a fork; pickling omits open files."""

    def __init__(self, location: str, folder: Path, remote: ShardSource | None = None) -> None:
        self.location, self.folder, self.remote = location, folder, remote

    def __reduce__(self) -> tuple:
        return Pack, (self.location, self.folder, self.remote)

    @cached_property
    def images(self) -> NDArray:
        """Memory-mapped rows of `layout.IMAGE_ROW`."""
        return np.load(self.folder / IMAGES, mmap_mode="r")

    def __len__(self) -> int:
        """The number of persons."""
        return self._person_file[1]

    @cached_property
    def _person_file(self) -> tuple[int, int, np.dtype]:
        """The offset of its rows in bytes, their number, and their type."""
        rows = np.load(self.folder / PERSONS, mmap_mode="r")
        return rows.offset, len(rows), rows.dtype

    def read_persons(self, persons_N: NDArray[np.int64]) -> Persons:
        """Read persons as in `CocoAnnotations.persons`, with `image_index` into `images`.

        The rows are not memory-mapped: touched pages of a map count as the process's memory, and an
        epoch touches all of them.
        """
        offset, _, row = self._person_file
        size = row.itemsize
        data = bytearray(size * len(persons_N))
        view = memoryview(data)
        file = os.open(self.folder / PERSONS, os.O_RDONLY)
        try:
            for n, person in enumerate(persons_N.tolist()):
                os.preadv(file, [view[n * size : (n + 1) * size]], offset + person * size)
        finally:
            os.close(file)
        rows = np.frombuffer(data, dtype=row)
        return Persons(
            image_index=rows["image"],
            image_id=rows["image_id"],
            key=rows["ann_id"],
            boxes_xywh=rows["box_xywh"],
            box_score=np.broadcast_to(1.0, len(rows)),
            joints=rows["joints"],
            visible=rows["visible"],
        )

    def read(
        self, images_N: NDArray[np.int64], regions_N4: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read regions of photos.

        All reads are announced to the kernel (posix_fadvise) before the first one blocks, so that
        the disk can serve many requests at once.

        Args:
            images_N: rows of `images`.
            regions_N4: left, top, width, height in photo pixels.
        Returns:
            pixels_B uint8, the concatenated regions, each [height, width, RGB]; and offsets_N, the
            first byte of each.
        Raises:
            UserError: a shard is missing or truncated.
        """
        sizes_N = 3 * regions_N4[:, 2] * regions_N4[:, 3]
        offsets_N = np.cumsum(sizes_N) - sizes_N
        pixels_B = np.empty(int(sizes_N.sum()), dtype=np.uint8)
        rows_N = self.images[images_N]
        # Whole rows of the photo: one request, which costs less than many small ones.
        row_bytes_N = 3 * rows_N["width"].astype(np.int64)
        starts_N = rows_N["offset"] + regions_N4[:, 1] * row_bytes_N
        lengths_N = regions_N4[:, 3] * row_bytes_N
        columns = (rows_N["shard"], starts_N, lengths_N, offsets_N, regions_N4)
        requests = list(zip(*(column.tolist() for column in columns), strict=True))
        for first in range(0, len(requests), _OPEN_FILES):
            group = requests[first : first + _OPEN_FILES]
            with self._open({shard for shard, *_ in group}) as files:
                for shard, start, length, *_ in group if _CAN_ADVISE else ():
                    os.posix_fadvise(files[shard], start, length, os.POSIX_FADV_WILLNEED)
                for shard, start, length, offset, (left, _, width, height) in group:
                    data = os.pread(files[shard], length, start)
                    if len(data) < length:
                        data = self._read_again(shard, start, length)
                    rows = np.frombuffer(data, dtype=np.uint8).reshape(height, -1, 3)
                    target = pixels_B[offset : offset + 3 * width * height]
                    target.reshape(height, width, 3)[:] = rows[:, left : left + width]
        return pixels_B, offsets_N

    def _read_again(self, shard: int, start: int, length: int) -> bytes:
        """Read from a truncated shard, after fetching it again if there is a remote."""
        path = self.folder / shard_name(shard)
        if self.remote:
            self.remote.fetch_again(path.name, start + length)
        with self._open({shard}) as files:
            data = os.pread(files[shard], length, start)
        if len(data) < length:
            raise UserError(f"{path} is cut off: run `sdpose prepare`, which makes it again")
        return data

    @contextlib.contextmanager
    def _open(self, shards: set[int]) -> Iterator[dict[int, int]]:
        files: dict[int, int] = {}
        try:
            for shard in shards:
                path = self.folder / shard_name(shard)
                if self.remote:
                    self.remote.fetch(path.name)
                try:
                    files[shard] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise UserError(f"{path}: {error.strerror}: run prepare_coco again") from None
            yield files
        finally:
            for file in files.values():
                os.close(file)

    def prefetch(self, persons_N: NDArray[np.int64]) -> None:
        """Start fetching the missing shards, in the order in which the persons are needed."""
        if self.remote is None:
            return
        rows = np.load(self.folder / PERSONS, mmap_mode="r")
        shards_N = self.images["shard"][rows["image"][persons_N]]
        _, first = np.unique(shards_N, return_index=True)
        names = [shard_name(int(shard)) for shard in shards_N[np.sort(first)]]
        self.remote.prefetch(name for name in names if not (self.folder / name).exists())

    def close(self) -> None:
        if self.remote:
            self.remote.close()


def open_pack(location: str) -> Pack:
    """Open the pack in a folder.

    Raises:
        UserError: there is none.
    """
    folder = Path(location)
    try:
        Manifest.parse((folder / MANIFEST).read_bytes(), location)
    except OSError as error:
        raise UserError(
            f"no pack in {location} ({error.strerror}): run prepare_coco, or `sdpose prepare`"
        ) from None
    return Pack(location, folder)
