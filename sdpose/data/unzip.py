"""Unpacks a zip file into a folder, and nothing outside it."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sdpose.errors import UserError


class UnusableArchiveError(UserError):
    """The archive, not its surroundings, is at fault."""


def unpack(
    archive: Path,
    target: Path,
    prefix: str,
    staging: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Unpacks the members whose names start with `prefix`, below `target`.

    A file appears when it is complete and its CRC is right; what is there already with the right
    size is kept. staging: a folder on the same disk for what is being written.
    Raises UnusableArchiveError if the archive is damaged, unsafe (absolute paths, `..`, links) or
    has no such members, and UserError if the disk is too small.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.is_dir()]
            unsafe = [m.filename for m in members if not _is_safe(m)]
            if unsafe:
                raise UnusableArchiveError(
                    f"{archive}: not unpacked, {len(unsafe)} of its names lead outside or are "
                    f"links, {unsafe[0]!r} for one"
                )
            wanted = [m for m in members if m.filename.startswith(prefix)]
            if not wanted:
                raise UnusableArchiveError(f"{archive}: it holds no {prefix}*")
            missing = [m for m in wanted if not _is_there(target / m.filename, m.file_size)]
            needed = sum(m.file_size for m in missing)
            free = shutil.disk_usage(target).free
            if needed > free:
                raise UserError(
                    f"{target}: unpacking {archive.name} needs {needed / 1e9:.1f} GB, "
                    f"{free / 1e9:.1f} GB are free on that disk"
                )
            temporary = staging / "unpacking"
            for count, member in enumerate(missing, start=1):
                destination = target / member.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                temporary.replace(destination)
                progress(count, len(missing))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UnusableArchiveError(f"{archive}: a damaged zip file: {error}") from None


def _is_safe(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    return not is_link and not outside


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
