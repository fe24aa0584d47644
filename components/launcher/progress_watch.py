"""Reports the progress of training: reads the run's record, logs it, keeps it on the job.

`kubectl get` shows it there for every job; a TrainJob's own status has it only where Trainer's
feature gate for it is on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sdpose.config import Experiment
from sdpose.outputs.run_progress import RunProgress, read_progress
from sdpose.training.paths import PROGRESS_FILE, run_paths

logger = logging.getLogger(__name__)

ANNOTATION = "sdpose/progress"

EVERY_S = 60.0  # at most
POLL_S = 5.0  # while a new record is due
# Fetching a dataset may take so long. Later, the record is probably out of sight.
UNSEEN_S = 1800.0


class ProgressWatch:
    """Reads the record in a thread of its own: a volume or a bucket may take its time, or fail.
    Neither ends a training; each kind of trouble is logged once."""

    def __init__(
        self,
        experiment: Experiment,
        keep: Callable[[str], None],
        restarts: Callable[[], int],
    ) -> None:
        """keep: puts a line where others look for it."""
        self._experiment, self._keep, self._restarts = experiment, keep, restarts
        self._closing, self._takes_last = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
        self._troubles: set[str] = set()
        self._last: RunProgress | None = None  # that was read
        self._said = ""

    def pods_run(self) -> None:
        """Begins, if it has not yet."""
        if self._thread.ident is None:
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Takes the last record, for `seconds` at most; 0: nobody looks at the job any more."""
        self._takes_last = self._takes_last or seconds > 0
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    # ------------------------------------------------------------------------------- its thread

    def _work(self) -> None:
        # What an earlier job has left says nothing about this one.
        self._last = self._read()
        began, pause = time.monotonic(), POLL_S
        while not self._closing.wait(pause):
            pause = EVERY_S if self._take() else POLL_S
            if self._last is None and time.monotonic() - began > UNSEEN_S:
                self._trouble("sight", self._not_seen())
        if self._takes_last:
            self._take(ended=True)

    def _take(self, *, ended: bool = False) -> bool:
        """Reports the record if it is new; whether it was."""
        progress = self._read()
        finished = ended and progress is not None and progress.status == "FINISHED"
        if progress is None or (progress == self._last and not finished):
            return False
        self._last = progress
        line, restarts = str(progress), self._restarts()
        if restarts:
            line += f"; {restarts} restart{'s' * (restarts > 1)}"
        if line == self._said:
            return False
        self._said = line
        logger.info(f"progress: {line}")
        try:
            self._keep(line)
        except Exception as error:  # whatever Kubernetes answers, training goes on
            self._trouble("annotation", f"the job's annotation {ANNOTATION} is not set: {error}")
        return True

    def _read(self) -> RunProgress | None:
        try:
            return read_progress(self._experiment)
        except Exception as error:  # of a volume, a bucket, a library
            self._trouble("record", f"no progress is shown: {error}")
            return None

    def _not_seen(self) -> str:
        place = run_paths(self._experiment).mirror or run_paths(self._experiment).work_dir
        return (
            f"no progress is shown: {place} holds no {PROGRESS_FILE} yet; is the volume that is "
            "trained on mounted here, too?"
        )

    def _trouble(self, kind: str, text: str) -> None:
        if kind not in self._troubles:
            self._troubles.add(kind)
            logger.info(text)
