"""Unpacks a zip file into a folder, and nothing outside it."""

from __future__ import annotations

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sdpose.errors import UserError
from sdpose.files import why_not_written

NAME_BYTES = 255  # Linux's limit of a name
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


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
    size is kept.

    Args:
        staging: a folder on the same disk for what is being written.
    Raises:
        UnusableArchiveError: it is damaged or encrypted, has no such members, or names that are
            unsafe (absolute, `..`, links) or cannot be.
        UserError: the disk is too small, or cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.is_dir()]
            unsafe = [m.filename for m in members if not _is_safe(m)]
            if unsafe:
                raise UnusableArchiveError(
                    f"{archive}: not unpacked, {len(unsafe)} of its names lead outside or are "
                    f"links, or are longer than {NAME_BYTES} bytes, {unsafe[0][:100]!r} for one"
                )
            wanted = [m for m in members if m.filename.startswith(prefix)]
            if not wanted:
                raise UnusableArchiveError(f"{archive}: it holds no {prefix}*")
            twofold = _file_and_folder(wanted)
            if twofold:
                raise UnusableArchiveError(
                    f"{archive}: not unpacked, {twofold[:100]!r} is both a file and a folder in it"
                )
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
                temporary.unlink(missing_ok=True)
                with file.open(member) as source, temporary.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                temporary.replace(destination)
                progress(count, len(missing))
    # RuntimeError: it is encrypted. ValueError, LZMAError: of the decoders.
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UnusableArchiveError(f"{archive}: a damaged zip file: {error}") from None
    except OSError as error:
        if error.errno is None:  # bz2's
            raise UnusableArchiveError(f"{archive}: a damaged zip file: {error}") from None
        raise UserError(
            f"cannot unpack {archive} to {target}: {why_not_written(target / 'x', error)}"
        ) from None


def _file_and_folder(members: list[zipfile.ZipInfo]) -> str:
    """A name that is a file and, in another name, a folder; empty if there is none."""
    names = {member.filename for member in members}
    folders = {str(path) for name in names for path in PurePosixPath(name).parents}
    return min(names & folders, default="")


def _is_safe(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    too_long = any(len(part.encode("utf-8", "replace")) > NAME_BYTES for part in path.parts)
    return not is_link and not outside and not too_long


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
