"""The second place of a run's results: a bucket or a folder that outlives the machine.

    <mirror>/latest.pth, epoch_N.pth, best_AP_epoch_N.pth      as in the work dir
    <mirror>/latest.json                                       how far latest.pth has come
    <mirror>/experiment.yaml, mlflow_run_id, *.log, ...        the work dir's own files

Uploads run in a thread of their own, retried until they succeed; of a file that changes faster than
it can be uploaded, the newest state is. The own files go with each checkpoint, the live ones among
them also in between. A fresh machine begins with `restore`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdpose.errors import UserError
from sdpose.files import link_or_copy, matching, sha256_of_file
from sdpose.outputs.lease import Lease, LeaseLostError
from sdpose.outputs.rate_limited_warning import Reminder
from sdpose.storage import DamagedObjectError, ObjectNotFoundError, Store
from sdpose.training.checkpoint import (
    Checkpoint,
    CorruptCheckpointError,
    ForeignCheckpointError,
    load_checkpoint,
)
from sdpose.training.checkpoint_content import Position
from sdpose.training.paths import LATEST, POSITION, epoch_of, is_best, newest_first, outdated

FETCHED = ".fetched.pth.tmp"
RETRY_SECONDS = 5.0
LIVE_SECONDS = 60.0  # between two uploads of a live file, while nothing else is uploaded

logger = logging.getLogger(__name__)


class Mirror:
    """Uploads of one run; `close` ends it."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        work_dir: Path,
        folder: Path,
        own_files: tuple[str, ...],
        live_files: tuple[str, ...] = (),
        keep: int,
    ) -> None:
        """lease: nothing is uploaded without it. folder: of the checkpoints. own_files: patterns of
        the work dir's other files. live_files: names of those that somebody waits for. keep: the
        newest epoch_N.pth that stay; -1: all."""
        self.lease = lease
        self._store, self._work_dir, self._folder = store, work_dir, folder
        self._own_files, self._live_files, self._keep = own_files, live_files, keep
        self._reminder = Reminder()
        # key -> file and number of the request, in the order in which they are uploaded
        self._wanted: dict[str, tuple[Path, int]] = {}
        self._requests = 0
        self._position = b""
        self._uploaded: dict[str, tuple[int, int]] = {}  # own files: size and time
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def upload(self, name: str) -> None:
        """A checkpoint, and with it whatever else has changed in the work dir."""
        self._want(name)

    def upload_latest(self, meta: Mapping[str, Any]) -> None:
        """latest.pth, which is as far as `meta` says."""
        position = {name: meta[name] for name in ("epoch", "iteration")}
        self._position = json.dumps(position).encode()
        self.upload(LATEST)

    def upload_all(self, meta: Mapping[str, Any]) -> None:
        """What the folder holds: the part of a run before may have ended without its mirror."""
        names = newest_first(path.name for path in matching(self._folder, "*.pth"))
        for name in names[:0:-1]:
            self.upload(name)
        if names:
            self.upload_latest(meta)

    def wait(self, seconds: float) -> list[str]:
        """Until all is uploaded, or cannot be because the lease is lost, `seconds` at most; what is
        not, for people."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._wanted or self.lease.lost is not None, max(seconds, 0.0)
            )
            return [self._store.uri(key) for key in self._wanted]

    def close(self, seconds: float) -> None:
        """Uploads the logs' last state, for `seconds` at most, and ends."""
        self._want(None)
        missing = self.wait(seconds)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if missing:
            logger.info("not uploaded: " + ", ".join(missing))

    # ----------------------------------------------------------------------- the mirror's thread

    def _want(self, checkpoint: str | None, patterns: tuple[str, ...] | None = None) -> None:
        # The work dir's own files first: a checkpoint without its experiment has no owner.
        files: dict[str, Path] = {}
        for pattern in self._own_files if patterns is None else patterns:
            for path in self._own(pattern):
                state = path.stat()
                version = (state.st_size, state.st_mtime_ns)
                key = path.relative_to(self._work_dir).as_posix()
                if self._uploaded.get(key) != version:
                    self._uploaded[key] = version
                    files[key] = path
        if checkpoint is not None:
            files[checkpoint] = self._folder / checkpoint
        with self._changed:
            self._requests += 1
            for key, path in files.items():
                # At the end: what latest.pth names as the best so far goes before it.
                self._wanted.pop(key, None)
                self._wanted[key] = (path, self._requests)
            self._changed.notify_all()

    def _own(self, pattern: str) -> list[Path]:
        try:
            return matching(self._work_dir, pattern)
        except (
            UserError
        ) as error:  # a share that is away for a moment: the next request looks again
            self._reminder.trouble(f"{error}: what changed there is uploaded later")
            return []

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closing, LIVE_SECONDS)
                if self._closing:
                    return
                first = next(iter(self._wanted.items()), None)
            if first is None:
                self._want(None, self._live_files)
                continue
            key, request = first
            try:
                self.lease.check()
                self._put(key, request[0])
            except LeaseLostError as error:
                logger.warning(f"no upload to {self._store.uri(key)} any more: {error}")
                with self._changed:
                    self._changed.notify_all()
                return
            except Exception as error:
                self._reminder.trouble(
                    f"no upload to {self._store.uri(key)}: {error}\n  Training goes on; "
                    f"the files are in {self._folder}, and it is tried again until it succeeds."
                )
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                continue
            self._reminder.over(f"uploads work again: {self._store.uri(key)}")
            with self._changed:
                if self._wanted.get(key) == request:  # else it has changed since
                    del self._wanted[key]
                self._changed.notify_all()

    def _put(self, key: str, path: Path) -> None:
        if not path.exists():  # removed since (max_keep_ckpts)
            return
        if path.suffix != ".pth":
            self._store.put(key, path.read_bytes())  # a log grows while it is read
            return
        still = path.with_name(f".upload-{path.name}.tmp")  # what `path` is now; it is replaced
        still.unlink(missing_ok=True)
        try:
            link_or_copy(path, still)
            self._store.put_file(still, key, sha256_of_file(still))
        finally:
            still.unlink(missing_ok=True)
        if key == LATEST:
            self._store.put(POSITION, self._position)
        for old in outdated(self._store.list(""), key, self._keep):
            self._store.delete(old)


# ------------------------------------------------------------------------------ the way back


def restore_files(
    store: Store, keys: Iterable[str], work_dir: Path, own_files: tuple[str, ...]
) -> None:
    """The work dir's own files, but for those that are there."""
    for key in keys:
        target = work_dir / key
        if not target.exists() and any(fnmatch(key, pattern) for pattern in own_files):
            store.get_file(key, target)


def newer_checkpoint(
    store: Store,
    keys: list[str],
    folder: Path,
    local: tuple[Path, Checkpoint] | None,
) -> tuple[Path, Checkpoint] | None:
    """The newest intact checkpoint of the mirror, fetched to latest.pth; `local` if it is as new.

    The best one that it names is fetched, too, if the folder lacks it. Damaged ones are
    logged.
    """
    found = local
    at = _stored_position(store) if POSITION in keys else None
    if at is None or at > _position_of(local):
        for name in newest_first(keys):
            fetched = _fetch(store, name, folder)
            if fetched is None:
                continue
            if _position(fetched["meta"]) > _position_of(local):
                logger.info(f"fetched {store.uri(name)}")
                os.replace(folder / FETCHED, folder / LATEST)
                found = folder / LATEST, fetched
            break
    if found is not None:
        epoch = found[1]["meta"].get("best_epoch")
        best = next((key for key in keys if is_best(key) and epoch_of(key) == epoch), None)
        if (
            best is not None
            and not (folder / best).exists()
            and _fetch(store, best, folder) is not None
        ):
            os.replace(folder / FETCHED, folder / best)
    for left in matching(folder, f"*{FETCHED}*"):  # and what a killed run had fetched of it
        left.unlink()
    return found


def _fetch(store: Store, name: str, folder: Path) -> Checkpoint | None:
    """A checkpoint of the mirror, which is in `folder / FETCHED` then; None if it is damaged."""
    try:
        store.get_file(name, folder / FETCHED)
        return load_checkpoint(folder / FETCHED)
    except (
        DamagedObjectError,
        ObjectNotFoundError,
        CorruptCheckpointError,
        ForeignCheckpointError,
    ) as error:
        reason = str(error).replace(str(folder / FETCHED), "").lstrip(": ")
        logger.info(f"skipped a damaged checkpoint: {store.uri(name)}: {reason}")
        return None


def _position_of(found: tuple[Path, Checkpoint] | None) -> tuple[int, int]:
    return _position(found[1]["meta"]) if found is not None else (-1, -1)


def _position(meta: Mapping[str, Any]) -> tuple[int, int]:
    return Position.model_validate(meta).order


def _stored_position(store: Store) -> tuple[int, int] | None:
    """How far latest.pth has come; None if that has to be found out from the file itself."""
    try:
        return Position.model_validate_json(store.read(POSITION)).order
    except (ValidationError, ObjectNotFoundError, DamagedObjectError):
        return None
