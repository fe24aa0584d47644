"""What the files of a dataset hold: their digests, and whether images decode.

Looking at every byte of COCO takes minutes, so what was found is remembered per file and looked up
by path, size and times. The record lies in the user's cache folder: the dataset may be read-only.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdpose.cache import cache_dir, read_record, write_record
from sdpose.cpus import cpu_count
from sdpose.data.images import ImageError, decode_image

MISSING = "file not found"

_RECORD_VERSION = 2
_FILES_PER_TASK = 16
_SECONDS_BETWEEN_SAVES = 60.0
# A file that changed less than this before it was read could change again without showing another
# time: file systems count in ticks.
_TICK_NS = 100_000_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileCheck:
    sha256: str  # hex; empty if the file cannot be read
    width: int  # pixels as decoded; 0 for what is not an image
    height: int
    error: str  # empty = fine; without the path


# Size and times of a file, and whether it was decoded; the fields of its FileCheck.
_Entry = tuple[
    tuple[int, int, int, bool],
    tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")], int, int, str],
]


class _Record(BaseModel):
    """What a run before has seen of the files below `root`."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[2]
    root: str
    files: dict[str, _Entry]


class CheckedFiles:
    """The files below `root`, looked at once and remembered while they do not change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = str(root.resolve())
        key = hashlib.sha256(self._resolved.encode()).hexdigest()[:16]
        self.record_path = cache_dir() / "prepare" / f"{key}.json"
        self._record = self._load()
        self._known = dict(self._record)

    def file(self, name: str) -> FileCheck:
        """Any file: its digest."""
        return self._check(name, is_image=False)

    def images(self, names: Sequence[str], progress: Progress) -> list[FileCheck]:
        """Digest, size and decodability of each image; on all cores, in any order, once."""
        return self._check_all(names, progress, is_image=True)

    def files(self, names: Sequence[str], progress: Progress) -> list[FileCheck]:
        """Likewise the digests of any files."""
        return self._check_all(names, progress, is_image=False)

    def _check_all(
        self, names: Sequence[str], progress: Progress, *, is_image: bool
    ) -> list[FileCheck]:
        tasks = [names[i : i + _FILES_PER_TASK] for i in range(0, len(names), _FILES_PER_TASK)]
        checks: list[FileCheck] = []
        saved = time.monotonic()
        # Threads, not processes: reading, hashing and decoding all release the GIL.
        executor = ThreadPoolExecutor(cpu_count())
        try:
            for found in executor.map(partial(self._check_some, is_image=is_image), tasks):
                checks.extend(found)
                progress(len(checks), len(names))
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    self.save()
                    saved = time.monotonic()
        finally:
            executor.shutdown(cancel_futures=True)
            self.save()
        return checks

    def save(self) -> None:
        """Writes the record, whole or not at all. Where that fails the next run checks again."""
        if self._known == self._record:
            return
        known = dict(self._known)
        document = {"version": _RECORD_VERSION, "root": self._resolved, "files": known}
        if write_record(self.record_path, document):
            self._record = known

    def _load(self) -> dict[str, _Entry]:
        document = read_record(self.record_path)
        if document is None:
            return {}
        try:
            record = _Record.model_validate(document)
        except ValidationError:  # damaged, or of an older version
            return {}
        return record.files if record.root == self._resolved else {}

    def _check_some(self, names: Sequence[str], *, is_image: bool) -> list[FileCheck]:
        return [self._check(name, is_image=is_image) for name in names]

    def _check(self, name: str, *, is_image: bool) -> FileCheck:
        path = self.root / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a device or a pipe may never end
                return FileCheck("", 0, 0, "not a regular file")
            stamp = _stamp(status)
            known = self._known.get(name)
            if known and known[0] == (*stamp, is_image):
                return FileCheck(*known[1])
            now = time.time_ns()
            data = path.read_bytes()
        except FileNotFoundError:
            return FileCheck("", 0, 0, MISSING)
        except OSError as error:
            return FileCheck("", 0, 0, error.strerror or str(error))
        except ValueError:  # a NUL, or half of a surrogate pair
            return FileCheck("", 0, 0, "no file can have this name")
        check = _look_at(data, name, is_image)
        if _stamp(path.stat()) == stamp and now - max(stamp[1:]) > _TICK_NS:
            values = (check.sha256, check.width, check.height, check.error)
            self._known[name] = ((*stamp, is_image), values)
        return check


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Size and times of the last change: mtime can be set at will, ctime cannot."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _look_at(data: bytes, name: str, is_image: bool) -> FileCheck:
    sha256 = hashlib.sha256(data).hexdigest()
    if not is_image:
        return FileCheck(sha256, 0, 0, "")
    try:
        height, width = decode_image(data, name).shape[:2]
    except ImageError as error:
        return FileCheck(sha256, 0, 0, str(error).removeprefix(f"{name}: "))
    return FileCheck(sha256, width, height, "")
