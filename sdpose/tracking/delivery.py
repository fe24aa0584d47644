"""A persistent queue between a training and MLflow, delivered by a thread.

A server that is down or slow does not hold the training up, and gets each record later, once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, get_args

from sdpose.credentials import without_secrets
from sdpose.errors import UserError
from sdpose.tracking.runs import RunStatus, TrackedRun
from sdpose.tracking.server import connect, is_refusal

RETRY_SECONDS = (1.0, 30.0)  # doubled in between
# `close` waits this long for a server that answers with errors, or not at all.
FAILING_SECONDS, SILENT_SECONDS = 10.0, 120.0

Entry = dict[str, Any]

logger = logging.getLogger(__name__)


class Delivery:
    """Delivers metrics and the status of runs in order, and files after them: a full or forbidden
    artifact store must not hold the metrics up.

    The file has what MLflow has not confirmed, one record per line; the next Delivery of the same
    file continues, also after a crash. Metrics keep the time at which they were logged. Nothing is
    duplicated when an answer is lost, nor when a resumed run computes an epoch again: only steps
    after the last one that the run has are sent. What MLflow itself refuses (the run was deleted)
    is logged and dropped.

    Args:
        path: of the file. Its folder must exist: a queue does not create the work dir again that
            a user has removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kept_in: Path | None = path
        """The file in which another process finds the waiting records; None: nowhere."""
        self._temporary = path.with_name(path.name + ".tmp")
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        self._waiting = _entries(path)
        self._last_steps: dict[tuple[str, str], int] = {}
        self._failing: set[str] = set()  # metrics, files
        self._logged: set[str] = set()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        self._add(run_id, metrics=dict(metrics), step=step)

    def file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        self._add(run_id, file=str(path.absolute()), folder=folder)

    def status(self, run_id: str, status: RunStatus) -> None:
        self._add(run_id, status=status)

    def close(self, seconds: float) -> int:
        """Waits until everything is delivered, but no longer than FAILING_SECONDS without progress
        for a server that fails, and SILENT_SECONDS for one that does not answer.

        Args:
            seconds: the limit in any case.
        Returns:
            The number of records left. They are in the file `kept_in`: the queue's, or one in the
            folder for temporary files if that cannot be written.
        """
        progress = time.monotonic()
        give_up = progress + seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            left = len(self._waiting)
            while self._waiting:
                now = time.monotonic()
                if len(self._waiting) < left:
                    left, progress = len(self._waiting), now
                patience = FAILING_SECONDS if self._failing else SILENT_SECONDS
                if now > min(give_up, progress + patience):
                    break
                self._changed.wait(0.1)
            left = len(self._waiting)
            if left and not self._keep():
                self._keep_elsewhere()
            self._waiting = []  # ends the thread; the file keeps them
        return left

    def _add(self, run_id: str, **content: Any) -> None:
        with self._changed:
            self._waiting.append({"run_id": run_id, "time": int(time.time() * 1000), **content})
            self._keep()
            self._changed.notify_all()

    def _keep(self) -> bool:
        """Replaces the file by the waiting records; False if it cannot be written.

        There are few, unless MLflow has been away for long.
        """
        try:
            if not self._waiting:
                self._path.unlink(missing_ok=True)
                return True
            with self._temporary.open("w", encoding="utf-8") as file:
                self._write(file)
            os.replace(self._temporary, self._path)
            return True
        except OSError as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            self._log_once(
                logging.INFO, f"{self._path}: {error.strerror}; what MLflow misses waits in memory"
            )
            return False

    def _keep_elsewhere(self) -> None:
        """Saves the waiting records in the folder for temporary files, at the end."""
        self.kept_in = None
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(prefix="sdpose-", suffix=f"-{self._path.name}")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                self._write(file)
            self.kept_in = Path(name)

    def _write(self, file: TextIO) -> None:
        file.writelines(json.dumps(entry) + "\n" for entry in self._waiting)
        file.flush()
        os.fsync(file.fileno())

    # ------------------------------------------------------------------------------- its thread

    def _work(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                entry = next((e for e in self._waiting if "file" not in e), self._waiting[0])
            kind = "files" if "file" in entry else "metrics"
            try:
                self._deliver(entry)
            except Exception as error:
                self._last_steps.clear()  # perhaps only the answer was lost
                if not is_refusal(error):
                    self._failed(kind, error)
                    self._pause(pause)
                    pause = min(2 * pause, RETRY_SECONDS[1])
                    continue
                self._log_once(
                    logging.WARNING, f"MLflow refuses {kind} of this run: {_reason(error)}"
                )
            else:
                pause = RETRY_SECONDS[0]
                if kind in self._failing:
                    self._failing.remove(kind)
                    logger.info(f"MLflow takes {kind} again")
            with self._changed:
                if entry in self._waiting:  # not closed meanwhile
                    self._waiting.remove(entry)
                    self._keep()
                    self._changed.notify_all()

    def _deliver(self, entry: Entry) -> None:
        client, run_id = connect(), entry["run_id"]
        run = TrackedRun(client, run_id)
        if "metrics" in entry:
            key = next(iter(entry["metrics"]))  # a call is stored as a whole
            if (run_id, key) not in self._last_steps:
                self._last_steps[run_id, key] = run.last_step(key)
            if entry["step"] > self._last_steps[run_id, key]:
                run.log_metrics(entry["metrics"], entry["step"], entry["time"])
                self._last_steps[run_id, key] = entry["step"]
        elif "file" in entry:
            if Path(entry["file"]).is_file():
                run.log_artifact(Path(entry["file"]), entry["folder"])
        elif entry["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        else:
            run.end(entry["status"], entry["time"])

    def _failed(self, kind: str, error: Exception) -> None:
        if kind not in self._failing:
            self._failing.add(kind)
            logger.warning(
                f"MLflow takes no {kind} ({_reason(error)}); "
                f"training goes on, what it misses waits in {self._path}"
            )

    def _log_once(self, level: int, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            logger.log(level, text)

    def _pause(self, seconds: float) -> None:
        """Waits before the next attempt; for less time while `close` waits."""
        started = time.monotonic()
        with self._changed:
            while self._waiting:
                until = started + (RETRY_SECONDS[0] if self._closing else seconds)
                if (left := until - time.monotonic()) <= 0:
                    return
                self._changed.wait(left)


def _reason(error: Exception) -> str:
    return without_secrets(str(error) or type(error).__name__).splitlines()[0]


def _entries(path: Path) -> list[Entry]:
    """The records of the file, without damaged lines.

    Raises:
        UserError: the file cannot be read (it would be replaced).
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; it holds what MLflow has not got yet. Make it readable, or "
            "remove it to do without"
        ) from None
    found = []
    for line in lines:
        entry: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
        if _is_entry(entry):
            found.append(entry)
    if damaged := len(lines) - len(found):
        logger.warning(f"{path}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    return found


def _is_entry(entry: Any) -> bool:
    """Whether it can be delivered."""
    if not isinstance(entry, dict) or not isinstance(entry.get("run_id"), str):
        return False
    if not isinstance(entry.get("time"), int):
        return False
    if "metrics" in entry:
        values = entry["metrics"]
        numbers = isinstance(values, dict) and all(
            isinstance(value, int | float) for value in values.values()
        )
        return numbers and bool(values) and isinstance(entry.get("step"), int)
    if "file" in entry:
        return isinstance(entry["file"], str) and isinstance(entry.get("folder"), str | None)
    return entry.get("status") in get_args(RunStatus)
