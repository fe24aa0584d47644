"""A run's progress as the status of its TrainJob (`status.trainerStatus`), where
`kubectl get trainjob` and Kubeflow's own tools show it.

Kubeflow Trainer 2.2 and newer, with its feature gate TrainJobStatus (alpha, off by default), gives
every pod an address, the CA of that address, and a token for this one TrainJob. What is posted
replaces the status as a whole.
Source: kubeflow/trainer KEP-2779, pkg/statusserver; docs/user-guides/trainjob-progress.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdpose.errors import UserError
from sdpose.outputs.run_progress import CLOSE_SECONDS, RunProgress, progress_in

URL_VARIABLE = "KUBEFLOW_TRAINER_SERVER_URL"
CA_VARIABLE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN_VARIABLE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # the path of a file, as the CA's

# Trainer asks its clients not to post more often.
INTERVAL_SECONDS = 5.0
# After failures the pause is doubled up to this.
LONGEST_PAUSE_SECONDS = 300.0
TIMEOUT_SECONDS = 5.0
LAST_RETRY_SECONDS = 1.0  # the end of the run waits for the last record, not for long
INT32_MAX = 2**31 - 1


class TrainJobStatus:
    """Posts the latest record from a thread of its own; what comes faster than it may post is
    replaced. A server that fails, hangs or refuses costs the training nothing: nothing is raised or
    printed."""

    def __init__(self, url: str, ca_file: Path, token_file: Path) -> None:
        self._url, self._ca_file, self._token_file = url, ca_file, token_file
        self._waiting: RunProgress | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="TrainJob status", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls) -> TrainJobStatus | None:
        """None outside of a TrainJob, and where its status cannot be set."""
        url, *files = (os.environ.get(n, "") for n in (URL_VARIABLE, CA_VARIABLE, TOKEN_VARIABLE))
        # A token goes nowhere but to a server that the CA vouches for.
        if not url.startswith("https://") or not all(files):
            return None
        return cls(url, *map(Path, files))

    def report(self, progress: RunProgress) -> None:
        with self._changed:
            self._waiting = progress
            self._changed.notify_all()

    def close(self, progress: RunProgress, seconds: float) -> None:
        with self._changed:
            self._waiting, self._closing = progress, True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._waiting = None  # ends the thread

    # ------------------------------------------------------------------------------- its thread

    def _work(self) -> None:
        pause = INTERVAL_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                progress = self._waiting
            if progress is None:
                return
            posted = self._post(progress)
            pause = INTERVAL_SECONDS if posted else min(2 * pause, LONGEST_PAUSE_SECONDS)
            with self._changed:
                if posted and self._waiting is progress:
                    self._waiting = None
                self._changed.wait_for(lambda: self._closing, pause)
                if self._closing and not posted and self._waiting is not None:
                    self._changed.wait(LAST_RETRY_SECONDS)

    def _post(self, progress: RunProgress) -> bool:
        """Whether the server has taken it."""
        url = urlsplit(self._url)
        try:
            # Both are read each time: certificates and tokens (of an hour) are replaced.
            context = ssl.create_default_context(cafile=str(self._ca_file))
            token = self._token_file.read_text(encoding="ascii").strip()
            # (urllib would send the token through $HTTPS_PROXY.)
            with contextlib.closing(
                HTTPSConnection(
                    url.hostname or "", url.port, timeout=TIMEOUT_SECONDS, context=context
                )
            ) as connection:
                connection.request(
                    "POST",
                    url.path,
                    body=json.dumps({"trainerStatus": trainer_status(progress)}),
                    headers={
                        "Authorization": f"Bearer {token}",
                        "Content-Type": "application/json",
                    },
                )
                return connection.getresponse().status == 200
        except (OSError, HTTPException, ValueError):
            return False


def report_finished(work_dir: Path) -> None:
    """The status of a TrainJob that finds its run finished by an earlier one."""
    with contextlib.suppress(UserError):
        if (progress := progress_in(work_dir)) and (status := TrainJobStatus.from_environment()):
            status.close(progress, CLOSE_SECONDS)


def trainer_status(progress: RunProgress) -> dict[str, Any]:
    """As the TrainJob's CustomResourceDefinition has it; metrics are strings there.

    >>> now = "2026-11-30T05:31:00Z"
    >>> status = trainer_status(RunProgress(now, "RUNNING", 38, 115, 300, 15670, 0.00071))
    >>> status["progressPercentage"], status["estimatedRemainingSeconds"], status["metrics"][0]
    (38, 15670, {'name': 'loss', 'value': '0.00071'})
    """
    metrics = {
        "loss": progress.loss,
        "AP": progress.AP,
        "currentEpoch": progress.epoch,
        "totalEpochs": progress.total_epochs,
    }
    status: dict[str, Any] = {
        "progressPercentage": progress.percent,
        "metrics": [
            {"name": name, "value": f"{value:.6g}"}
            for name, value in metrics.items()
            if value is not None
        ],
        "lastUpdatedTime": progress.time,
    }
    if progress.seconds_left is not None:
        status["estimatedRemainingSeconds"] = min(progress.seconds_left, INT32_MAX)
    return status
