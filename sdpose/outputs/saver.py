"""Keeping checkpoints while training goes on (rank 0 only).

The training thread copies what is to be saved and goes on; one thread writes it (serialise, fsync,
rename; checkpoint.py), a second one uploads it (mirror.py). One checkpoint at most is being
written: a save waits for the one before, so no more than two copies exist.

A full disk does not end training: it is told at once and at every save that fails, the checkpoint
before stays valid, and the next save tries again, the names of the failed one (epoch_N.pth) first.
What could not be kept until the end makes the run fail (`finish`), so that nobody finds out when it
is too late.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import matching
from sdpose.outputs.lease import Lease
from sdpose.outputs.mirror import Mirror
from sdpose.outputs.rate_limited_warning import Reminder
from sdpose.storage import open_store
from sdpose.training.checkpoint import Checkpoint, save_checkpoint
from sdpose.training.outputs import name_latest
from sdpose.training.paths import (
    LATEST,
    OWN_FILES,
    PROGRESS_FILE,
    epoch_of,
    outdated,
    run_paths,
)
from sdpose.training.resume import Start

# How long a finished run waits for a full disk or a dead bucket before it gives up.
PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 5.0


@dataclass
class _Job:
    """A checkpoint to write, and the names that it is to have beside latest.pth."""

    checkpoint: Checkpoint
    names: list[str] = field(default_factory=list)
    written: bool = False


class CheckpointSaver:
    """`save` and `name` from the training thread; `finish` at a run's end; `close` always."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        interval_minutes: float | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """keep: the newest epoch_N.pth that stay; -1: all. interval_minutes: see `is_due`."""
        self.mirror = mirror
        self._folder = folder
        self._keep = keep
        self._interval = None if interval_minutes is None else 60 * interval_minutes
        self._reminder = Reminder()
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._last: _Job | None = None
        self._lost: list[str] = []
        self._saved_at = time.monotonic()
        self._gave_up = False

    @property
    def is_due(self) -> bool:
        """Whether the last save is older than the interval, or the next one ends the run."""
        if self.mirror is not None and self.mirror.lease.lost is not None:
            return True
        age = time.monotonic() - self._saved_at
        return self._interval is not None and age >= self._interval

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes latest.pth: returns when a copy is taken. Later steps do not change it.

        Raises UserError if another training has taken the mirror over.
        """
        self.flush()
        self._require_mirror()
        self._saved_at = time.monotonic()
        job = _Job(_copy(checkpoint))
        self._writing = self._writer.submit(self._replace_last, job)

    def name(self, names: Sequence[str]) -> None:
        """Gives the checkpoint saved last these names, too, and removes those out of date."""
        self._writing = self._writer.submit(self._add_names, names)

    def flush(self) -> bool:
        """Waits until the last save is on the disk, or has failed (False)."""
        if self._writing is not None:
            self._writing.result()
        return self._last is None or self._last.written

    def finish(self) -> None:
        """Waits until everything is where it was promised to be; UserError if it cannot be."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        self.flush()
        while self._last is not None and not self._attempt(self._last):
            if time.monotonic() > give_up:
                self._lost += [LATEST] * (not self._last.written) + self._last.names
                break
            time.sleep(RETRY_SECONDS)
        self._require_mirror()
        missing = [f"{self._folder / name}" for name in self._kept(self._lost)]
        if self.mirror is not None:
            missing += self.mirror.wait(give_up - time.monotonic())
            self._require_mirror()
        if missing:
            self._gave_up = True
            raise UserError(
                "training is complete, but could not keep what it promised:\n  "
                + "\n  ".join(missing)
                + "\n  Mend the disk or the bucket (the messages above say what is wrong), then "
                "give the same command again: it completes what it can."
            )

    def close(self, seconds: float) -> None:
        """Ends the threads; what is being written is completed, uploads get `seconds`."""
        self.flush()
        self._writer.shutdown()
        if self.mirror is not None:
            self.mirror.close(0.0 if self._gave_up else seconds)

    def _require_mirror(self) -> None:
        if self.mirror is not None and (lost := self.mirror.lease.lost) is not None:
            self._gave_up = True
            raise UserError(
                f"{lost}. It took over while this one did not reach the store; nothing is uploaded "
                f"any more, and what this one has trained since is in {self._folder} only. End one "
                "of them; give a new run another --work-dir"
            )

    # ------------------------------------------------------------------------ the writer's thread

    def _replace_last(self, job: _Job) -> None:
        before, self._last = self._last, job
        if before is not None and before.names and not self._attempt(before):
            self._lost += before.names
        self._attempt(job)

    def _add_names(self, names: Sequence[str]) -> None:
        if self._last is None:  # continued: latest.pth is on the disk
            self._last = _Job({}, written=True)
        self._last.names += names
        self._attempt(self._last)

    def _attempt(self, job: _Job) -> bool:
        latest = self._folder / LATEST
        try:
            if not job.written:
                save_checkpoint(latest, job.checkpoint)
                job.written = True
                if self.mirror is not None:
                    self.mirror.upload_latest(job.checkpoint["meta"])
            while job.names:
                name = job.names[0]
                name_latest(self._folder, name, self._keep)
                if self.mirror is not None:
                    self.mirror.upload(name)
                job.names.pop(0)
        except (UserError, OSError) as error:
            self._reminder.trouble(
                f"no checkpoint: {error}\n  Training goes on; the checkpoint before stays "
                "valid, and the next save tries again."
            )
            return False
        job.checkpoint = {}  # on the disk: the copy is not needed any more
        self._reminder.over("checkpoints can be written again")
        return True

    def _names(self) -> list[str]:
        return [path.name for path in matching(self._folder, "*.pth")]

    def _kept(self, lost: list[str]) -> list[str]:
        """Those that a later checkpoint has not replaced since."""
        names = {*self._names(), *lost}

        def is_replaced(name: str) -> bool:
            later = [new for new in names if (epoch_of(new) or 0) > (epoch_of(name) or 0)]
            return any(name in outdated(names, new, self._keep) for new in later)

        return [name for name in dict.fromkeys(lost) if not is_replaced(name)]


def open_saver(experiment: Experiment, start: Start, lease: Lease | None) -> CheckpointSaver:
    """lease: of the mirror, if there is one. What an earlier part of the run left is uploaded."""
    settings, paths, mirror = experiment.checkpoint_config, run_paths(experiment), None
    if paths.mirror is not None:
        assert lease is not None
        mirror = Mirror(
            open_store(paths.mirror),
            lease,
            work_dir=paths.work_dir,
            folder=paths.checkpoints,
            own_files=OWN_FILES,
            live_files=(PROGRESS_FILE,),
            keep=settings.max_keep_ckpts,
        )
        if start.checkpoint is not None:
            mirror.upload_all(start.checkpoint["meta"])
    return CheckpointSaver(
        paths.checkpoints,
        keep=settings.max_keep_ckpts,
        interval_minutes=settings.interval_minutes,
        mirror=mirror,
    )


def _copy(value: Any) -> Any:
    """The same in memory that no training step writes to, tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        # Not type(value)(...): a state_dict is an OrderedDict, with attributes that load ignores.
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value
