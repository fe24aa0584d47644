"""A real MLflow server: one worker, artifacts through the server, in one folder; its database there
(SQLite), or given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

LIFE_SECONDS = 3600  # if nobody ends it; longer than a whole `make check` on a slow machine
START_SECONDS = 180


class MlflowServer:
    """`start`, then `pause` and `resume` (SIGSTOP, SIGCONT), `kill` (SIGKILL), `start` again on the
    same port with the same data, `stop`."""

    def __init__(
        self, folder: Path, database: str | None = None, options: Sequence[str] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        self.options = options  # of `mlflow server`, beside these
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> MlflowServer:
        """Returns when it answers."""
        server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        server += ["--port", str(self.port), "--workers", "1"]
        server += ["--backend-store-uri", self.database]
        server += ["--artifacts-destination", str(self.folder / "artifacts"), *self.options]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["timeout", "--kill-after", "5", str(LIFE_SECONDS), *server],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        give_up = time.monotonic() + START_SECONDS
        while not self.answers():
            said = (self.folder / "server.log").read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"the MLflow server ended:\n{said}"
            assert time.monotonic() < give_up, f"the MLflow server does not answer:\n{said}"
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def pause(self) -> None:
        """Connections are accepted by the kernel and never answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Connections are refused from now on."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    stop = kill  # its database survives that: SQLite

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)  # the session's whole process group


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Shared by all tests of the session (of one xdist worker): leave it running."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow_server"))
    yield server.start()
    server.stop()


@pytest.fixture
def own_mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """One test's own, not started yet: to pause, kill and start again."""
    server = MlflowServer(tmp_path / "mlflow_server")
    yield server
    server.stop()
