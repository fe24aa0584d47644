"""Protection against rollback attacks: the newest signed generation of each channel seen so far.

A signature proves that a move was made, not that it is the last one: anyone who can write to the
store can put an older pointer back. So a reader stores in its cache folder how far a channel was,
and refuses older pointers. A machine that reads a channel for the first time, or whose cache was
emptied, cannot notice.

There is one empty file per generation, named by number and seal, so that two readers cannot
overwrite each other's record.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from pathlib import Path
from typing import Any

from sdpose.cache import CACHE_VARIABLE, cache_dir
from sdpose.errors import UserError
from sdpose.registry.documents import SEAL
from sdpose.registry.layout import channel_folder
from sdpose.storage import Store

FOLDER = "registry-generations"
_NAME = re.compile(r"([0-9]{8,18})-([0-9a-f]{64})")


log = logging.getLogger(__name__)


class OlderPointerError(UserError):
    """The pointer of a channel is older than one that this machine has seen."""


Seen = list[tuple[int, str]]  # generation, seal


def seen_generations(store: Store, model_name: str, channel: str) -> Seen:
    """The generations seen so far. Read it before the pointer: a later move that another process
    sees in between is no rollback."""
    return _seen(_folder(store, model_name, channel))


def check_generation(
    store: Store,
    model_name: str,
    channel: str,
    record: dict[str, Any] | None,
    seen: Seen,
    *,
    allow_older: bool,
) -> None:
    """Compares a channel's verified record (None: empty) with those seen before, and stores it.

    Args:
        allow_older: the registry was restored from a backup; this record becomes the newest.
    Raises:
        OlderPointerError: a later generation was seen, or another record of this one.
    """
    generation, seal = (record["generation"], record[SEAL]) if record else (0, "")
    newest = max((number for number, _ in seen), default=0)
    others = [each for each in seen if each[0] == generation and each[1] != seal]
    if (generation < newest or others) and not allow_older:
        raise OlderPointerError(
            f"{store.uri(channel_folder(model_name, channel))}: "
            + (f"its pointer is of generation {generation}" if record else "it has no pointer")
            + (
                f", this machine has seen generation {newest}: somebody has put an older one back. "
                if generation < newest
                else ", and this machine has seen another move of that number. "
            )
            + "If the registry was restored on purpose, give --allow-older once (in Python: "
            "allow_older=True)"
        )
    if record is not None:
        _remember(_folder(store, model_name, channel), generation, seal, seen)


def _folder(store: Store, model_name: str, channel: str) -> Path:
    registry = hashlib.sha256(store.uri("models").encode()).hexdigest()[:16]
    return cache_dir() / FOLDER / registry / model_name / channel


def _seen(folder: Path) -> Seen:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"cannot read {folder}, where the generations that this machine has seen are: "
            f"{error.strerror}; set {CACHE_VARIABLE} to a folder of your own"
        ) from None
    found = filter(None, map(_NAME.fullmatch, names))
    return [(int(match[1]), match[2]) for match in found]


def _remember(folder: Path, generation: int, seal: str, seen: Seen) -> None:
    if (generation, seal) in seen and len(seen) == 1:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{generation:08d}-{seal}").touch(exist_ok=True)
    except OSError as error:
        log.warning(
            f"cannot write to {folder} ({error.strerror}): an older pointer would not be "
            f"noticed next time; set {CACHE_VARIABLE} to a folder that is kept"
        )
        return
    for number, other in seen:
        if (number, other) != (generation, seal):
            with contextlib.suppress(OSError):
                (folder / f"{number:08d}-{other}").unlink()
