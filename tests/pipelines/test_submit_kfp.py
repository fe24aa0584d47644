"""Submission to a cluster: the real client against a small server with KFP's HTTP interface."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.endpoint import Endpoint, check_endpoint
from sdpose.config import dump_experiment, load_experiment
from sdpose.errors import UserError

RUN_ID = "0f1e2d3c"


class Kfp(ThreadingHTTPServer):
    """Answers what the client asks for one run; the run passes through `states`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.states = ["PENDING", "SUCCEEDED"]
        self.token = ""
        self.runs: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Kfp

    def do_GET(self) -> None:
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.answer({"error": "unauthorized"}, 401)
        elif self.path.endswith("/healthz"):
            self.answer({"multi_user": False})
        elif "/runs/" in self.path:
            states = self.server.states
            self.answer({"run_id": RUN_ID, "state": states.pop(0) if states[1:] else states[0]})
        else:  # experiments by name: none yet
            self.answer({})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/runs" in self.path:
            self.server.runs.append(content)
            self.answer({"run_id": RUN_ID, "display_name": content["display_name"]})
        else:
            self.answer({"experiment_id": "7", "display_name": content["display_name"]})

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    with Kfp() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_run_is_submitted_with_the_whole_experiment(submit, kfp: Kfp, tmp_path: Path) -> None:
    process = submit(
        *("--exp", "sdpose_t", "--endpoint", kfp.url, "--image", "registry/sdpose:1", "--wait"),
        *("--data-root", "/data/coco", "--gpus", "8", "--volume", "coco:/data"),
        cwd=tmp_path,
    )
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert f"runner: kfp (endpoint {kfp.url}: --endpoint)" in stdout
    assert f"run: {kfp.url}/#/runs/details/{RUN_ID}" in stdout
    assert stdout.endswith("run SUCCEEDED\n")
    (run,) = kfp.runs
    experiment = load_experiment("sdpose_t", data_root="/data/coco")
    parameters = run["runtime_config"]["parameters"]
    assert parameters["experiment"] == dump_experiment(experiment)
    assert parameters["runner"] == "kfp"
    assert run["display_name"].startswith("sdpose_t ")
    package = json.dumps(run["pipeline_spec"])
    assert "registry/sdpose:1" in package
    assert "nvidia.com/gpu" in package


def test_canceled_run_is_no_success(submit, kfp: Kfp, tmp_path: Path) -> None:
    kfp.states = ["CANCELED"]
    command = ("--exp", "sdpose_t", "--endpoint", kfp.url, "--image", "registry/sdpose:1", "--wait")
    process = submit(*command, cwd=tmp_path)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run CANCELED" in stdout


def test_token(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.token = "secret"
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"refuses to talk to you .*set \$KFP_TOKEN"):
        check_endpoint(Endpoint(kfp.url, "--endpoint"))
    monkeypatch.setenv("KFP_TOKEN", "secret")
    check_endpoint(Endpoint(kfp.url, "--endpoint"))
