"""Downloads one file from a source: in parallel parts, with retries, resumable and verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from functools import partial
from pathlib import Path, PurePosixPath

from sdpose.errors import UserError
from sdpose.files import open_own, why_not_written
from sdpose.retry import TransientError
from sdpose.storage.ranged_download import Progress, fetch_ranges
from sdpose.storage.store import CHUNK_BYTES, StoreUnavailableError, retry_transient
from sdpose.tools.coco_fetch.sources import RemoteFile, Source

SEGMENT_BYTES = 32 << 20  # what a kill can cost, per connection
LARGEST_FILE = 2 << 30  # COCO's largest single file has 0.7 GB
LARGEST_SUMS = 64 << 20  # a line for every image

Checksum = tuple[str, str]  # "sha256" or "md5", hex


def download(
    source: Source,
    file: RemoteFile,
    target: Path,
    *,
    part: Path,
    checksum: Checksum | None = None,
    largest: int = LARGEST_FILE,
    progress: Progress | None = None,
) -> None:
    """Downloads `file` to `target`, which appears when it is complete and verified.

    Args:
        part: the partial file; a later call continues it (its state is in part + ".json") if the
            source can read ranges and the file has not changed.
        largest: bytes, if the server does not state a size: an endless answer must not fill the
            disk.
    Raises:
        UserError: the source fails permanently, the file does not end or cannot be written, or its
            checksum differs.
    """
    try:
        _download(source, file, target, part, checksum, largest, progress)
    except OSError as error:
        raise UserError(f"cannot write {target}: {why_not_written(part, error)}") from None


def _download(
    source: Source,
    file: RemoteFile,
    target: Path,
    part: Path,
    checksum: Checksum | None,
    largest: int,
    progress: Progress | None,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    _need_space(part, file.size or 0)
    state = part.with_name(part.name + ".json")
    try:
        if file.ranges and file.size and file.size > SEGMENT_BYTES:
            open_range = partial(source.open, file)
            fetch_ranges(
                open_range,
                file.size,
                file.tag,
                part,
                state,
                segment_bytes=SEGMENT_BYTES,
                progress=progress,
            )
        else:
            _download_whole(source, file, part, largest, progress)
    except StoreUnavailableError as error:
        raise UserError(f"{error}\n  What has arrived is kept: the same command goes on.") from None
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


class Checksums:
    """The SHA256SUMS and MD5SUMS of a source, beside a file or at the top."""

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
            file = retry_transient(lambda name=name: self._source.find(name))  # type: ignore[misc]
            if not file:
                continue
            text = retry_transient(lambda file=file: self._text(file))  # type: ignore[misc]
            for digest, path in re.findall(r"^([0-9a-fA-F]{32,64}) [ *](.+?)\r?$", text, re.M):
                sums[path.removeprefix("./")] = (kind, digest.lower())
        return sums

    def _text(self, file: RemoteFile) -> str:
        with self._source.open(file, 0, None) as stream:
            data = b""
            while chunk := stream.read(CHUNK_BYTES):
                data += chunk
                if len(data) > LARGEST_SUMS:
                    raise UserError(f"{file.name} does not end: it is no list of checksums")
        if file.size is not None and len(data) != file.size:
            raise TransientError(f"{file.name}: connection closed early")
        return data.decode("utf-8", "replace")


def file_digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _download_whole(
    source: Source, file: RemoteFile, part: Path, largest: int, progress: Progress | None
) -> None:
    """Downloads without ranges. It cannot be continued, so a failure leaves nothing on the disk."""

    def attempt() -> None:
        size = 0
        with os.fdopen(open_own(part), "wb") as sink, source.open(file, 0, None) as stream:
            sink.truncate(0)
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                if size > (largest if file.size is None else file.size):
                    raise UserError(
                        f"{file.name} does not end after {size / 1e9:.1f} GB, more than it can "
                        "have: not fetched; take another mirror"
                    )
                sink.write(chunk)
                if progress:
                    progress(size, file.size or size)
        if file.size is not None and size != file.size:
            raise TransientError(f"{file.name}: {size} of {file.size} bytes arrived")

    try:
        retry_transient(attempt)
    except (OSError, UserError):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _need_space(part: Path, size: int) -> None:
    allocated = part.stat().st_blocks * 512 if part.is_file() else 0
    free = shutil.disk_usage(part.parent).free
    if size - allocated > free:
        raise UserError(
            f"{part.parent}: {(size - allocated) / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free on that disk"
        )
