"""Making a pack, once: every photo with a person to train on, decoded into shards.

Which photos make which shard is known before the first one is decoded, so shards are made in
parallel and whole, and what a killed run left is used by the next one. A pack that is there is
verified instead (at once, while its files do not change), and damaged shards are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdpose.config.schema import COCO
from sdpose.cpus import cpu_count
from sdpose.data.coco import CocoAnnotations
from sdpose.data.images import decode_image
from sdpose.data.pack.layout import (
    FORMAT,
    IMAGE_ROW,
    IMAGES,
    MANIFEST,
    PERSONS,
    DamagedManifestError,
    Manifest,
    person_row,
    shard_name,
)
from sdpose.errors import UserError
from sdpose.files import atomic_file, open_own
from sdpose.locking import file_lock
from sdpose.prepare.verify import CheckedFiles
from sdpose.progress_bar import ConsoleProgress

log = logging.getLogger(__name__)

SHARD_BYTES = 16 << 20
_JOURNAL = "building.jsonl"


@dataclass(frozen=True)
class Source:
    """What is packed. `annotations` without the images that are left out."""

    annotations: CocoAnnotations
    annotations_sha256: str
    image_dir: Path
    image_sha256: dict[str, str]  # by file name: what prepare_coco looked at

    def key(self) -> str:
        """Names the pack: it changes with any byte that goes into it."""
        digest = hashlib.sha256(f"{FORMAT} {SHARD_BYTES}\n{self.annotations_sha256}\n".encode())
        skeleton, categories = self.annotations.skeleton, self.annotations.category_ids
        if skeleton.keypoints != COCO.keypoints:  # COCO's packs keep the names that they have
            digest.update(json.dumps([skeleton.keypoints, categories]).encode())
        for name in self.annotations.file_names:
            digest.update(f"{self.image_sha256[name]}\n".encode())
        return digest.hexdigest()[:32]


def prepare_pack(source: Source, packs: str) -> str:
    """Makes sure that the pack is in the folder `packs`; returns where.

    Raises:
        UserError: the disk is too small or cannot be written.
    """
    if "://" in packs:
        raise UserError(f"data.pack_dir: {packs} is no folder: this program packs on this machine")
    folder = Path(packs) / source.key()
    build_pack(source, folder)
    return str(folder)


def build_pack(source: Source, folder: Path) -> Manifest:
    """Makes the pack in the folder, or verifies and repairs the one that is there."""
    return _Builder(source, folder).complete()


class _Builder:
    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.persons = source.annotations.persons()
        # Photos without a person to train on are not read.
        self.image_index = np.unique(self.persons.image_index)
        self.images = _layout(source.annotations.image_sizes_wh[self.image_index])
        self.num_shards = int(self.images["shard"][-1]) + 1
        self.num_bytes = _bytes(self.images)

    def complete(self) -> Manifest:
        intact = self._intact()
        if intact is not None:
            return intact
        with self._alone():
            intact = self._intact()  # another process may have made it meanwhile
            if intact is not None:
                return intact
            self._take_apart()
            return self._build()

    @property
    def _names(self) -> list[str]:
        return [*map(shard_name, range(self.num_shards)), IMAGES, PERSONS]

    def _manifest(self) -> Manifest | None:
        """The one that is there; None too if it is damaged, and the pack is made again."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        try:
            manifest = Manifest.parse(path.read_bytes(), str(path))
        except DamagedManifestError:
            return None
        is_this = manifest.key == self.folder.name and [*manifest.sha256] == self._names
        return manifest if is_this else None

    def _intact(self) -> Manifest | None:
        """The manifest, if every file is there and as it says."""
        manifest = self._manifest()
        if manifest is None or self._digests(self._names) != manifest.sha256:
            return None
        return manifest

    def _take_apart(self) -> None:
        """Of a pack with damaged files: what is good goes to the journal, as of a killed build."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return
        manifest = self._manifest()
        if manifest is None:
            log.info(f"{path} is damaged: the pack is made again")
        else:
            self._write_journal(self._verified(manifest.sha256))
        path.unlink()

    def _build(self) -> Manifest:
        done = self._verified(self._journal())
        self._write_journal(done)  # without what is damaged, and without a torn line at its end
        missing = [n for n in range(self.num_shards) if shard_name(n) not in done]
        todo = sum(self._shard_bytes(n) for n in missing)
        log.info(
            f"packing {len(self.images)} photos into {self.folder}: {self.num_bytes / 1e9:.2f} GB, "
            f"{self.num_shards} shards" + (f", {len(done)} are there" if done else "")
        )
        self._require_space(todo)
        packed, started = 0, time.monotonic()
        threads = ThreadPoolExecutor(cpu_count())  # decoding releases the GIL
        try:
            with (
                ConsoleProgress("packing", "bytes") as progress,
                os.fdopen(open_own(self.folder / _JOURNAL), "a", encoding="utf-8") as journal,
            ):
                tasks = {threads.submit(self._write_shard, n): n for n in missing}
                for task in as_completed(tasks):
                    name = shard_name(tasks[task])
                    done[name] = task.result()
                    journal.write(json.dumps([name, done[name]]) + "\n")
                    journal.flush()
                    packed += self._shard_bytes(tasks[task])
                    progress(packed, todo)
        finally:
            threads.shutdown(cancel_futures=True)
        done[IMAGES] = self._write(IMAGES, _npy(self.images))
        done[PERSONS] = self._write(PERSONS, _npy(self._person_rows()))
        manifest = Manifest(
            key=self.folder.name,
            num_images=len(self.images),
            num_persons=len(self.persons),
            num_bytes=self.num_bytes,
            sha256={name: done[name] for name in self._names},
        )
        good = self._verified(manifest.sha256)  # reads everything back
        if good != manifest.sha256:
            self._write_journal(good)
            raise UserError(
                f"{self.folder}: what was written just now cannot be read back: a faulty disk? Set "
                "data.pack_dir to a folder on another disk; the same command again makes the "
                "damaged files again"
            )
        self._write(MANIFEST, manifest.dump())
        (self.folder / _JOURNAL).unlink()
        log.info(f"packed {len(self.persons)} persons in {time.monotonic() - started:.1f} s")
        return manifest

    # ---------------------------------------------------------------------------------- content

    def _write_shard(self, number: int) -> str:
        photos = self._photos(number)
        pixels = np.empty(self._shard_bytes(number), dtype=np.uint8)
        for image, row in zip(self.image_index[photos], self.images[photos], strict=True):
            _, width, height, offset = row.tolist()
            name = self.source.annotations.file_names[image]
            path = self.source.image_dir / name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}") from None
            if hashlib.sha256(data).hexdigest() != self.source.image_sha256[name]:
                raise UserError(f"{path} changed while the dataset was prepared: start again")
            size = 3 * width * height
            pixels[offset : offset + size] = decode_image(data, str(path)).reshape(-1)
        return self._write(shard_name(number), pixels.data)

    def _person_rows(self) -> NDArray:
        rows = np.zeros(len(self.persons), dtype=person_row(self.persons.visible.shape[1]))
        rows["image"] = np.searchsorted(self.image_index, self.persons.image_index)
        rows["ann_id"] = self.persons.ann_id
        rows["image_id"] = self.persons.image_id
        rows["box_xywh"] = self.persons.boxes_xywh
        rows["joints"] = self.persons.joints
        rows["visible"] = self.persons.visible
        return rows

    def _shard_bytes(self, number: int) -> int:
        return _bytes(self.images[self._photos(number)])

    def _photos(self, number: int) -> slice:
        return slice(*np.searchsorted(self.images["shard"], [number, number + 1]))

    # ------------------------------------------------------------------------------------ files

    def _write(self, name: str, data: bytes | memoryview) -> str:
        """A file, whole or not at all; its SHA-256."""
        with atomic_file(self.folder / name) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def _digests(self, names: list[str]) -> dict[str, str]:
        files = CheckedFiles(self.folder)
        with ConsoleProgress("verifying the pack", "files") as progress:
            return dict(zip(names, (f.sha256 for f in files.files(names, progress)), strict=True))

    def _verified(self, expected: dict[str, str]) -> dict[str, str]:
        """Those of the files that are as `expected` says; the others are named, and made again."""
        found = self._digests(list(expected))
        damaged = [name for name, sha256 in expected.items() if found[name] != sha256]
        if damaged:
            log.info(
                f"{len(damaged)} files of {self.folder} are damaged ({damaged[0]}), made again"
            )
        return {name: sha256 for name, sha256 in expected.items() if name not in damaged}

    def _journal(self) -> dict[str, str]:
        """SHA-256 of the shards that a killed build had completed. A torn line does not count."""
        shards = set(map(shard_name, range(self.num_shards)))
        done: dict[str, str] = {}
        with contextlib.suppress(OSError):
            text = (self.folder / _JOURNAL).read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    name, sha256 = json.loads(line)
                    if name in shards and isinstance(sha256, str):
                        done[name] = sha256
        return done

    def _write_journal(self, done: dict[str, str]) -> None:
        lines = [json.dumps([name, sha256]) + "\n" for name, sha256 in done.items()]
        self._write(_JOURNAL, "".join(lines).encode())

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"the pack needs {needed / 1e9:.1f} GB, {self.folder} has {free / 1e9:.1f} GB "
                "left: free some, set data.pack_dir to a folder on another disk, or "
                "data.pipeline=exact"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time; others wait, and find what it made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with file_lock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder} ({error.strerror}): set data.pack_dir to a folder "
                "for packs, or data.pipeline=exact"
            ) from None


def _layout(sizes_wh: NDArray[np.int64]) -> NDArray:
    """Rows of images.npy: photos in order, a new shard where SHARD_BYTES would be exceeded."""
    rows = np.zeros(len(sizes_wh), dtype=IMAGE_ROW)
    rows["width"], rows["height"] = sizes_wh.T
    shard, offset = 0, 0
    for row, size in zip(rows, (3 * sizes_wh.prod(axis=1)).tolist(), strict=True):
        if offset and offset + size > SHARD_BYTES:
            shard, offset = shard + 1, 0
        row["shard"], row["offset"] = shard, offset
        offset += size
    return rows


def _bytes(images: NDArray) -> int:
    return int((3 * images["width"].astype(np.int64) * images["height"]).sum())


def _npy(array: NDArray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
