"""One file from a source, whole and checked: in parallel parts, patiently, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from sdpose.data.sources import InterruptionError, RemoteFile, Source
from sdpose.errors import UserError

CONNECTIONS = 8
SEGMENT_BYTES = 32 << 20  # what a kill can cost, per connection
CHUNK_BYTES = 1 << 20
ATTEMPTS = 6  # without a byte of progress
FIRST_PAUSE_SECONDS = 0.5

Checksum = tuple[str, str]  # "sha256" or "md5", hex
Progress = Callable[[int, int], None]
T = TypeVar("T")
Item = TypeVar("Item")


def download(
    source: Source,
    file: RemoteFile,
    target: Path,
    *,
    part: Path,
    checksum: Checksum | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetches `file` to `target`, which appears when it is complete and right.

    part: where it grows; with what lies beside it (.json) a later call goes on there, if the source
    can read ranges and the file has not changed.
    Raises UserError if the source fails for good or the checksum is another.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    _need_space(part, file.size or 0)
    state = part.with_name(part.name + ".json")
    if file.ranges and file.size and file.size > SEGMENT_BYTES:
        _download_segments(source, file, file.size, part, state, progress)
    else:
        _download_whole(source, file, part, progress)
    if checksum:
        kind, expected = checksum
        found = file_digest(part, kind)
        if found != expected:
            part.unlink()
            state.unlink(missing_ok=True)
            raise UserError(
                f"{file.name} arrived damaged: its {kind} is {found}, not {expected}; it was "
                "removed. Run the same command again, or take another mirror."
            )
    part.replace(target)
    state.unlink(missing_ok=True)


def patiently(action: Callable[[], T]) -> T:
    """Calls it, and again after growing pauses while it is `InterruptionError`."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except InterruptionError as error:
            _pause_or_give_up(attempt, error)
    raise AssertionError


def in_parallel(
    action: Callable[[Item], None], items: Sequence[Item], stopping: threading.Event
) -> Iterator[Item]:
    """Yields the items, in order, as they are done. `stopping` is set when it ends early."""
    executor = ThreadPoolExecutor(CONNECTIONS)
    try:
        for start in range(0, len(items), 1000):
            some = items[start : start + 1000]
            for item, _ in zip(some, executor.map(action, some), strict=True):
                yield item
    except BaseException:
        stopping.set()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


class Checksums:
    """SHA256SUMS and MD5SUMS that a source publishes, beside a file or at its top."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._folders: dict[str, dict[str, Checksum]] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Checksum | None:
        path = PurePosixPath(name)
        parent = str(path.parent)
        return self._sums(parent).get(path.name) or self._sums(".").get(name)

    def _sums(self, folder: str) -> dict[str, Checksum]:
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._read(folder)
            return self._folders[folder]

    def _read(self, folder: str) -> dict[str, Checksum]:
        sums: dict[str, Checksum] = {}
        for kind, list_name in (("md5", "MD5SUMS"), ("sha256", "SHA256SUMS")):
            name = list_name if folder == "." else f"{folder}/{list_name}"
            file = patiently(lambda name=name: self._source.find(name))  # type: ignore[misc]
            if not file:
                continue
            text = patiently(lambda file=file: self._text(file))  # type: ignore[misc]
            for digest, path in re.findall(r"^([0-9a-fA-F]{32,64}) [ *](.+?)\r?$", text, re.M):
                sums[path.removeprefix("./")] = (kind, digest.lower())
        return sums

    def _text(self, file: RemoteFile) -> str:
        with self._source.open(file, 0, None) as stream:
            data = b""
            while chunk := stream.read(CHUNK_BYTES):
                data += chunk
        if file.size is not None and len(data) != file.size:
            raise InterruptionError(f"{file.name}: connection closed early")
        return data.decode("utf-8", "replace")


def file_digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _download_whole(
    source: Source, file: RemoteFile, part: Path, progress: Progress | None
) -> None:
    def attempt() -> None:
        size = 0
        with part.open("wb") as sink, source.open(file, 0, None) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                sink.write(chunk)
                size += len(chunk)
                if progress:
                    progress(size, file.size or size)
        if file.size is not None and size != file.size:
            raise InterruptionError(f"{file.name}: {size} of {file.size} bytes arrived")

    patiently(attempt)


def _download_segments(
    source: Source,
    file: RemoteFile,
    size: int,
    part: Path,
    state: Path,
    progress: Progress | None,
) -> None:
    identity = {"size": size, "tag": file.tag, "segment": SEGMENT_BYTES}
    done = _completed(state, identity) if part.is_file() and part.stat().st_size == size else set()
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    stopping = threading.Event()
    lock = threading.Lock()
    starts = range(0, size, SEGMENT_BYTES)
    arrived = sum(min(SEGMENT_BYTES, size - start) for start in starts if start in done)

    def fetch(start: int) -> None:
        nonlocal arrived
        position, stop, attempt = start, min(start + SEGMENT_BYTES, size), 0
        while position < stop and not stopping.is_set():
            before = position
            try:
                with source.open(file, position, stop) as stream:
                    while position < stop and not stopping.is_set():
                        chunk = stream.read(min(CHUNK_BYTES, stop - position))
                        if not chunk:
                            raise InterruptionError(f"{file.name}: connection closed early")
                        os.pwrite(descriptor, chunk, position)
                        position += len(chunk)
                        with lock:
                            arrived += len(chunk)
                            if progress:
                                progress(arrived, size)
            except InterruptionError as error:
                attempt = 1 if position > before else attempt + 1
                _pause_or_give_up(attempt, error)
        if position < stop:
            return
        os.fsync(descriptor)
        with lock:
            done.add(start)
            _write_atomically(state, json.dumps(identity | {"done": sorted(done)}))

    try:
        os.ftruncate(descriptor, size)
        for _ in in_parallel(fetch, [start for start in starts if start not in done], stopping):
            pass
    finally:
        os.close(descriptor)


def _completed(state: Path, identity: dict[str, object]) -> set[int]:
    try:
        known = json.loads(state.read_text())
        return set(known["done"]) if known == known | identity else set()
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _pause_or_give_up(attempt: int, error: InterruptionError) -> None:
    if attempt >= ATTEMPTS:
        raise UserError(
            f"gave up after {ATTEMPTS} attempts: {error}\n  What has arrived is kept: the same "
            "command goes on."
        ) from None
    time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))


def _need_space(part: Path, size: int) -> None:
    allocated = part.stat().st_blocks * 512 if part.is_file() else 0
    free = shutil.disk_usage(part.parent).free
    if size - allocated > free:
        raise UserError(
            f"{part.parent}: {(size - allocated) / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free on that disk"
        )


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)
