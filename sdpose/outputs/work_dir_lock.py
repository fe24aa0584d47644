"""One training at a time in a work dir and its mirror, and the removal of what it left there.

Imports no PyTorch: the launcher of a cluster's job needs these, too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.locking import lock
from sdpose.outputs.lease import Lease
from sdpose.storage import Store, open_store
from sdpose.training.paths import (
    OWN_CHECKPOINTS,
    OWN_FILES,
    POSITION,
    newest_first,
    run_paths,
)

# How long a run waits for one in the same work dir: a killed run's loader processes hold on to the
# folder until they notice, within 5 s (on Linux at once).
LOCK_WAIT_SECONDS = 10.0


@contextlib.contextmanager
def locked_results(experiment: Experiment) -> Iterator[Lease | None]:
    """`locked` for all folders that a run writes to, and the lease of their mirror, if any.

    Raises UserError if another training has one of them, or a folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        paths = run_paths(experiment)
        for folder in sorted({paths.work_dir, paths.checkpoints}):
            stack.enter_context(locked(folder))
            with _usable(folder), tempfile.TemporaryFile(dir=folder):
                pass
        yield stack.enter_context(leased(experiment))


@contextlib.contextmanager
def leased(experiment: Experiment) -> Iterator[Lease | None]:
    """Nobody else's training writes to the mirror of this one; None if it has no mirror."""
    uri = run_paths(experiment).mirror
    if uri is None:
        yield None
        return
    with Lease(open_store(uri)).held() as lease:
        yield lease


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuses a second run in the same folder while one is going on.

    The lock is on the folder itself, ends with the process and leaves nothing behind. Where the
    file system knows no locks, there is none.
    """
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    try:
        while True:
            try:
                lock(descriptor, wait=False)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise UserError(
                        f"{folder} is in use by another training run; wait for it, end it, or "
                        "choose another --work-dir"
                    ) from None
            except OSError:  # a broken disk: what is written next says so
                break
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"results cannot be written to {folder}: {error.strerror or error}; make it "
            "writable, or choose another --work-dir (checkpoint_config.out_dir for the "
            "checkpoints; $SDPOSE_SCRATCH for the local part of a work dir on S3)"
        ) from None


def remove_results(experiment: Experiment) -> None:
    """Removes what trainings left in the work dir and its mirror, and nothing else.

    The caller has made sure that none of them is going on: `locked_results`, or `leased`.
    """
    if (uri := run_paths(experiment).mirror) is not None:
        _remove_mirrored(open_store(uri))
    for path in results_of(experiment):
        path.unlink()


def results_of(experiment: Experiment) -> list[Path]:
    paths = run_paths(experiment)
    places = ((paths.work_dir, OWN_FILES), (paths.checkpoints, OWN_CHECKPOINTS))
    return [p for folder, names in places for name in names for p in matching(folder, name)]


def _remove_mirrored(store: Store) -> None:
    """Removes what runs have left in the mirror, and nothing else."""
    keys = list(store.list(""))
    checkpoints = newest_first(keys)
    for key in keys:
        own = any(fnmatch(key, pattern) for pattern in (POSITION, *OWN_FILES))
        if own or key in checkpoints:
            store.delete(key)
