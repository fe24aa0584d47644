"""Files: opened without following links, written whole or not at all, listed fully, hashed.

File systems differ: SMB and FUSE refuse to sync a folder, some shares know no chmod and no hard
links. What is only a courtesy there is left out; what would lose data is an error.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sdpose.errors import UserError

# What a file system answers that does not know an operation. An I/O error is none of these.
UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power failure, where the file system can do that.

    Raises OSError for a fault of the disk; SMB before Linux 4.17 and some FUSE file systems answer
    EINVAL, and there the rename has happened nevertheless.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def make_read_only(path: Path) -> None:
    """Protects a file from accidental writes; shares that know no chmod go without."""
    try:
        path.chmod(0o444)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EPERM}:
            raise


def open_own(path: Path, *, shared: bool = False) -> int:
    """A descriptor, for reading and writing, of a file whose name only this program uses.

    The file is made if it is not there, and never emptied. Others may be able to write to the
    folder: what they planted under the name (a link to another file, a file that they can change
    afterwards) is refused.

    Args:
        shared: several users use the file (a lock); its owner is not looked at.
    Raises:
        UserError: something else has the name.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _in_the_way(path, "a symbolic link") from None
        if error.errno in (errno.EISDIR, errno.ENXIO):  # a folder; a socket
            raise _in_the_way(path, "not a regular file") from None
        raise
    try:
        what = _foreign(os.fstat(descriptor), path, shared)
        if what:
            raise _in_the_way(path, what)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _foreign(status: os.stat_result, path: Path, shared: bool) -> str:
    """What makes an opened file another one than ours; empty if it is ours."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if shared:
        return ""
    if status.st_nlink > 1:
        return "a hard link to another file"
    # A share may give every file one owner (SMB's uid=, NFS's root_squash). Whoever owns the
    # folder can replace any file in it anyway.
    if status.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        return f"a file of another user (uid {status.st_uid})"
    return ""


def _in_the_way(path: Path, what: str) -> UserError:
    return UserError(
        f"cannot write {path}: it is {what}, and sdpose keeps a file of its own under this name; "
        "remove it and try again"
    )


@contextlib.contextmanager
def atomic_file(
    path: Path, *, unique: bool = False, durable: bool = True, private: bool = False
) -> Iterator[IO[bytes]]:
    """A file to write that takes its place under `path` only when complete and on the disk.

    A process that is killed in between leaves the old file, and `.<name>.tmp` beside it, which the
    next call removes.

    Args:
        unique: other processes may write the same file at the same time; the last one wins. What a
            killed process leaves then has a name that no later call removes.
        durable: survives a power failure, for the price of an fsync.
        private: others cannot read it.
    Raises:
        UserError: it cannot be written (a full disk, say); the old file is kept.
    """
    name = f".{path.name}.{uuid.uuid4().hex[:8]}.tmp" if unique else f".{path.name}.tmp"
    temporary = path.with_name(name)
    ours = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _create(temporary, 0o600 if private else 0o666) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            ours = is_at(file.fileno(), temporary)
            if not ours:
                raise UserError(f"cannot write {path}: another process writes it, too")
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        if ours:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        # torch reports a write that failed below it as a RuntimeError.
        if isinstance(error, OSError | RuntimeError):
            raise UserError(f"cannot write {path}: {why_not_written(path, error)}") from error
        raise


def write_atomically(path: Path, text: str, *, unique: bool = False, durable: bool = True) -> None:
    """Replaces a text file, whole or not at all. Raises UserError."""
    with atomic_file(path, unique=unique, durable=durable) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a name may be no text


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name, which is free: a hard link, or a copy where links are impossible.

    A link costs no space, and unlike a symbolic link it stays readable when the source is removed.
    Only for files that are replaced and never written in place.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with contextlib.suppress(OSError):
            shutil.copystat(source, target)


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def why_not_written(path: Path, error: OSError | RuntimeError) -> str:
    """The reason of a failed write, and of a full disk how much room there is."""
    if isinstance(error, OSError) and error.errno not in FULL:
        return error.strerror or str(error)
    free = ""
    with contextlib.suppress(OSError):
        free = f" ({shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there)"
    return f"{str(error).splitlines()[0]}{free}: make room"


def _create(path: Path, mode: int) -> IO[bytes]:
    """A new file; what had the name (a killed process's file, a link) is removed, not written."""
    path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


def is_at(descriptor: int, path: Path) -> bool:
    """Is the open file the one that has the name now?"""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_file(path: Path) -> bool:
    """Is there a file? Unlike `Path.is_file` (from Python 3.14 on) and `os.path.isfile`, it does
    not take "cannot be seen" for "is not there": raises OSError."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def walk(folder: Path, *, hidden: bool = True) -> Iterator[str]:
    """The path of every file below a folder, in no order; none if the folder is not there.

    Links are followed: what can be read below the folder is listed. `os.walk` and `rglob` leave out
    what cannot be listed, so a caller that deletes what is not listed would lose data.

    Args:
        hidden: files and folders whose names start with a dot, too.
    Raises:
        OSError: a folder cannot be listed, or a link leads back to a folder above it.
    """
    if _is_absent(folder):
        return
    # Folders to look into, and which folders (device, inode) are above each.
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(folder), ())]
    while pending:
        place, above = pending.pop()
        status = os.stat(place)
        if not above and not stat.S_ISDIR(status.st_mode):
            return
        identity = status.st_dev, status.st_ino
        if identity in above:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
        above = (*above, identity)
        with os.scandir(place) as entries:
            for entry in entries:
                if not hidden and entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append((entry.path, above))
                else:
                    yield entry.path


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files and folders that match, sorted; empty if the folder is not there.

    `Path.glob` answers "none" for a folder that cannot be listed.

    Args:
        pattern: as in `Path.glob`, without `**`: *.pth, tf_logs/events.*
    Raises:
        UserError: a folder cannot be listed.
    """
    first, _, rest = pattern.partition("/")
    try:
        names = [] if _is_absent(folder) else os.listdir(folder)
    except NotADirectoryError:
        return []
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from None
    found = [folder / name for name in sorted(names) if fnmatch.fnmatchcase(name, first)]
    return [path for each in found for path in matching(each, rest)] if rest else found


def _is_absent(folder: Path) -> bool:
    """Nothing has the name; raises OSError if that cannot be seen, as below a link to a disk that
    is not mounted."""
    try:
        folder.lstat()
        return False
    except NotADirectoryError:
        return True
    except FileNotFoundError:
        for parent in folder.absolute().parents:
            if os.path.lexists(parent):
                parent.stat()
                break
        return True
