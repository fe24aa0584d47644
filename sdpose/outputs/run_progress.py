"""How far a run has come, for whoever looks at it from outside: one small record.

Rank 0 keeps it as `progress.json` in the work dir, and where a reporter is attached (a TrainJob's
status, trainjob_status.py) it goes there, too. `read_progress` reads it anywhere the results are
seen: on the same volume, or in the mirror.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.files import write_atomically
from sdpose.outputs.sink import Sink, Status
from sdpose.storage import ObjectNotFoundError, open_store
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord
from sdpose.training.log_lines import duration
from sdpose.training.paths import PROGRESS_FILE, run_paths

# People do not look more often, and a network disk takes time for each record.
WRITE_SECONDS = 10.0
# How long the end of a run waits for reporters. One that is asked to stop has its checkpoint to
# upload meanwhile, and its next start reports again.
CLOSE_SECONDS, STOP_SECONDS = 10.0, 2.0

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
ENDS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}


@dataclass(frozen=True)
class RunProgress:
    """As of `time` (UTC, ISO 8601)."""

    time: str
    status: RunStatus
    percent: int  # of all steps; 100 only when the run has finished
    epoch: int  # from 1; the one under way
    total_epochs: int
    seconds_left: int | None = None  # to the end of the run; None: not known yet
    loss: float | None = None  # mean since the log line before
    AP: float | None = None  # of the last evaluation

    def __str__(self) -> str:
        """For people.

        >>> now = "2026-11-30T05:31:00Z"
        >>> str(RunProgress(now, "RUNNING", 38, 115, 300, 15670, 0.00071, 0.641))
        '38 %, epoch 115 of 300, loss 0.00071, AP 0.641, 4:21:10 left'
        >>> str(RunProgress(now, "KILLED", 0, 1, 300))
        '0 %, epoch 1 of 300, stopped'
        """
        parts = [f"{self.percent} %", f"epoch {self.epoch} of {self.total_epochs}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3g}")
        if self.AP is not None:
            parts.append(f"AP {self.AP:.3f}")
        if self.status in ENDS:
            parts.append(ENDS[self.status])
        elif self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)


class Reporter(Protocol):
    """Takes records from the training thread, which must not wait for it."""

    def report(self, progress: RunProgress) -> None: ...
    def close(self, progress: RunProgress, seconds: float) -> None:
        """The last record; waits for what is under way, `seconds` at most."""


class ProgressSink(Sink):
    """Makes the records."""

    def __init__(
        self, experiment: Experiment, reporters: Sequence[Reporter], before: RunProgress | None
    ) -> None:
        """before: of an earlier part of this run."""
        self._reporters = reporters
        self._progress = RunProgress(
            time=_now(),
            status="RUNNING",
            percent=0,
            epoch=1,
            total_epochs=experiment.total_epochs,
            AP=before.AP if before else None,
        )

    def start_bar(self, iteration: int, total_iterations: int) -> None:
        total = self._progress.total_epochs
        epoch = min(iteration * total // total_iterations + 1, total)
        self._report(epoch=epoch, percent=_percent(iteration, total_iterations))

    def train(self, record: TrainRecord) -> None:
        total_iterations = self._progress.total_epochs * record.iterations_per_epoch
        self._report(
            epoch=record.epoch,
            percent=_percent(record.iteration, total_iterations),
            seconds_left=max(0, round(record.eta)),
            loss=record.values.get("loss", self._progress.loss),
        )

    def epoch(self, record: EpochRecord) -> None:
        self._report(loss=record.values.get("loss", self._progress.loss))

    def evaluation(self, record: EvaluationRecord) -> None:
        self._report(AP=record.metrics["AP"])

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        left = 0 if status == "FINISHED" else None
        percent = 100 if status == "FINISHED" else self._progress.percent
        self._update(status=status, percent=percent, seconds_left=left)
        patience = CLOSE_SECONDS if status == "FINISHED" else STOP_SECONDS
        give_up = time.monotonic() + min(seconds, patience)
        for reporter in self._reporters:
            reporter.close(self._progress, max(0.0, give_up - time.monotonic()))

    def _report(self, **changes: Any) -> None:
        self._update(**changes)
        for reporter in self._reporters:
            reporter.report(self._progress)

    def _update(self, **changes: Any) -> None:
        self._progress = replace(self._progress, time=_now(), **changes)


class ProgressFile:
    """`progress.json`, replaced as a whole: now and then, and at once for the first loss and for
    each AP. What a full disk refuses is not written: the log files say so (log_file.py), and the
    next record is tried again."""

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / PROGRESS_FILE
        self._written = -WRITE_SECONDS
        self._shown: tuple[bool, float | None] = False, None

    def report(self, progress: RunProgress) -> None:
        shows = progress.loss is not None, progress.AP
        if shows != self._shown or time.monotonic() - self._written >= WRITE_SECONDS:
            self._shown = shows
            self._write(progress)

    def close(self, progress: RunProgress, seconds: float) -> None:
        self._write(progress)

    def _write(self, progress: RunProgress) -> None:
        self._written = time.monotonic()
        # No fsync, which may take long: after a crash of the machine the next record is soon there.
        with contextlib.suppress(UserError):
            write_atomically(self._path, json.dumps(asdict(progress)) + "\n", durable=False)


def read_progress(experiment: Experiment) -> RunProgress | None:
    """The latest record of the experiment's run, from its work dir or else its mirror.

    None: there is none yet, or not where it is seen from here.
    Raises UserError if it cannot be read, or is damaged.
    """
    paths = run_paths(experiment)
    # With a work dir that is a URI, the folder is the training pod's own.
    if paths.mirror != experiment.work_dir and (found := progress_in(paths.work_dir)):
        return found
    if paths.mirror is None:
        return None
    store = open_store(paths.mirror)
    try:
        return _parse(store.read(PROGRESS_FILE), store.uri(PROGRESS_FILE))
    except ObjectNotFoundError:
        return None


def progress_in(work_dir: Path) -> RunProgress | None:
    """The latest record that the folder itself holds; raises UserError as `read_progress` does."""
    path = work_dir / PROGRESS_FILE
    try:
        return _parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _parse(document: bytes, where: str) -> RunProgress:
    try:
        return TypeAdapter(RunProgress).validate_json(document)
    except ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        raise UserError(f"{where} is damaged: {place}{problem['msg']}") from None


def _percent(iteration: int, total_iterations: int) -> int:
    """Rounded down, and not 100: after the last step the last evaluation is still to come."""
    return min(100 * iteration // max(total_iterations, 1), 99)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
