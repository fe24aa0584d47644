"""Where this machine keeps what is lost without harm: the cache, which can be made again but costs
time, and the local part of results that are on S3.

The cache may lie on a volume that others can write to. Records in it are believed only if this user
has written them, see `read_record`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from sdpose.errors import UserError
from sdpose.files import atomic_file

log = logging.getLogger(__name__)

CACHE_VARIABLE = "SDPOSE_CACHE"
SCRATCH_VARIABLE = "SDPOSE_SCRATCH"


def cache_dir() -> Path:
    """$SDPOSE_CACHE, else `sdpose` in $XDG_CACHE_HOME or ~/.cache."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "sdpose"


def scratch_dir() -> Path:
    """$SDPOSE_SCRATCH, else the working folder (which is read-only in a container)."""
    return Path(os.environ.get(SCRATCH_VARIABLE, ""))


def read_record(path: Path) -> Any:
    """The JSON of a record in the cache; None if there is none that can be believed.

    A record says what a file's digest or a server's behaviour is, and nobody looks again. So it
    counts only if this user has written it and no other can change it; a warning says if not.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        doubt = ""
        if status.st_uid != os.geteuid():
            doubt = f"it belongs to another user (uid {status.st_uid})"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            doubt = "other users can write to it"
        if doubt:
            log.warning(
                f"{path} is not used: {doubt}. What it would save is done again; set "
                f"{CACHE_VARIABLE} to a folder of your own"
            )
            return None
        try:
            return json.load(file)
        except (OSError, ValueError, RecursionError):
            return None


def own_folder(folder: Path) -> Path:
    """A folder of the cache, made if it is not there; refused if another user can choose what is
    in it.

    Members of its group are trusted (a team's cache, a pod's fsGroup), and so is root. A share may
    give all files one owner: what counts is whom a file belongs to that is made there now.

    Raises:
        UserError: it belongs to another user, everybody can write to it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    owner = os.geteuid()
    if status.st_uid not in (owner, 0):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            owner = os.fstat(file.fileno()).st_uid
    if status.st_uid not in (owner, 0):
        reason = f"it belongs to another user (uid {status.st_uid})"
    elif status.st_mode & stat.S_IWOTH:
        reason = "everybody can write to it"
    else:
        return folder
    raise UserError(
        f"{folder} is not used: {reason}, who could change what is read from there; set "
        f"{CACHE_VARIABLE} to a folder of your own, or remove it"
    )


def write_record(path: Path, document: Any) -> bool:
    """Replaces a record, readable by this user alone; False where that is impossible."""
    with contextlib.suppress(UserError):
        with atomic_file(path, unique=True, durable=False, private=True) as file:
            file.write(json.dumps(document).encode())
        return True
    return False
