"""MLflow with its basic authentication, as k8s/components/mlflow-auth starts it, and the Job that
makes its user: the same configuration, the same program, on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.mlflow import MlflowServer

from sdpose import tracking
from sdpose.errors import UserError

Object = dict[str, Any]
ADMIN = {
    "MLFLOW_AUTH_ADMIN_PASSWORD": "canary-of-the-admin",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "canary-of-the-forms",
}
USER = {
    "MLFLOW_TRACKING_USERNAME": "training",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-training",
}


@pytest.fixture(scope="module")
def objects(render: Callable[[str], list[Object]]) -> dict[tuple[str, str], Object]:
    """By kind and name, the generated one without the hash of its content."""
    return {
        (each["kind"], re.sub(r"^(mlflow-auth)-\w+$", r"\1", each["metadata"]["name"])): each
        for each in render("overlays/full")
    }


@pytest.fixture(scope="module")
def server(
    objects: dict[tuple[str, str], Object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow")
    pod = objects["Deployment", "mlflow"]["spec"]["template"]["spec"]
    [container], [prepares] = pod["containers"], pod["initContainers"]
    configuration = objects["ConfigMap", "mlflow-auth"]["data"]["basic_auth.ini"]
    database = next(e["value"] for e in prepares["env"] if e["name"] == "MLFLOW_BACKEND_STORE_URI")
    assert database in configuration
    here = f"sqlite:///{folder}/mlflow.db"
    (folder / "basic_auth.ini").write_text(configuration.replace(database, here))
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        prepares["command"],
        env={"PATH": programs, "HOME": str(folder), "MLFLOW_BACKEND_STORE_URI": here},
        cwd=folder,
        check=True,
        capture_output=True,
    )
    options = [word for word in container["command"] if word.startswith("--app-name")]
    assert options == ["--app-name=basic-auth"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ADMIN.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(folder / "basic_auth.ini"))
        server = MlflowServer(folder, here, options)
        yield server.start()
        server.stop()


def make_user(objects: dict[tuple[str, str], Object], uri: str, **changes: str) -> None:
    """What the Job does."""
    [container] = objects["Job", "mlflow-user"]["spec"]["template"]["spec"]["containers"]
    _, *arguments = container["command"]
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **ADMIN, **USER, **changes, "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for canary in (*ADMIN.values(), USER["MLFLOW_TRACKING_PASSWORD"]):
        assert canary not in done.stdout + done.stderr


@pytest.mark.timeout(900)  # imports MLflow eight times, which takes a busy machine a minute each
def test_runs_are_logged_by_its_user_only(
    server: MlflowServer,
    objects: dict[tuple[str, str], Object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in USER:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="check MLFLOW_TRACKING_USERNAME") as refused:
        tracking.start_run("mine", params={}, tags={})
    assert "that answers" not in str(refused.value)

    make_user(objects, server.uri)
    make_user(objects, server.uri)  # applied again
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    run = tracking.start_run("mine", params={"a": 1}, tags={})
    run.log_metrics({"val/AP": 0.5}, step=1)
    run.end("FINISHED")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-that-is-wrong")
    with pytest.raises(UserError) as refused:
        tracking.start_run("mine", params={}, tags={})
    assert "canary" not in str(refused.value)

    make_user(objects, server.uri, MLFLOW_TRACKING_PASSWORD="canary-that-is-new")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-that-is-new")
    tracking.start_run("mine", params={}, tags={})


def test_the_kubelets_probes_need_no_password(
    server: MlflowServer, objects: dict[tuple[str, str], Object]
) -> None:
    [container] = objects["Deployment", "mlflow"]["spec"]["template"]["spec"]["containers"]
    path = container["readinessProbe"]["httpGet"]["path"]
    with urllib.request.urlopen(server.uri + path, timeout=60) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(
            f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=60
        )
