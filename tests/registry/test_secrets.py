"""What a secret's value stands in: nothing. Canaries go wherever a user can put a secret."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from made import with_promotion, write_checkpoint
from servers.mlflow import MlflowServer

from sdpose.cli import main
from sdpose.config import Experiment
from sdpose.storage import open_store

CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKCANARYUSER01",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-02",
    "AWS_SESSION_TOKEN": "canary-session-03",
    "MLFLOW_TRACKING_PASSWORD": "canary-password-04",
    "KFP_TOKEN": "canary-token-05",
}
IN_URLS = "canary-in-url-06"
NOBODY = "127.0.0.1:9"


def without_canaries(where: str, content: bytes) -> None:
    for canary in (*CANARIES.values(), IN_URLS):
        assert canary.encode() not in content, f"{canary} in {where}"


def test_no_secret_is_said_or_kept(
    mlflow_server: MlflowServer,
    on_s3: str,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = f"tiny-{uuid.uuid4().hex[:8]}"
    good = write_checkpoint(tmp_path / "good.pth", experiment, 1)
    gated = with_promotion(experiment, min_ap=0.99)
    refused = write_checkpoint(tmp_path / "refused.pth", gated, 2)
    metrics = tmp_path / "metrics.json"
    metrics.write_text('{"AP": 0.5}')
    environment = {
        **CANARIES,
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_URI": f"http://somebody:{IN_URLS}@{urlsplit(mlflow_server.uri).netloc}",
        "SDPOSE_REGISTRY": on_s3,
    }
    said = []

    def run(*words: str, code: int = 0, **changes: str) -> None:
        with monkeypatch.context() as patch:
            for name, value in (environment | changes).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["sdpose", "registry", *words])
            with pytest.raises(SystemExit) as ended:
                main()
        output, errors = capfd.readouterr()
        without_canaries(" ".join(words), (output + errors).encode())
        assert int(ended.value.code or 0) == code, (words, output, errors)
        said.append(errors)

    channel = ("--channel", "production")
    run("register", model, str(good), "--metrics", str(metrics))
    run("promote", model, "1", *channel)
    run("register", model, str(refused), "--metrics", str(metrics))
    run("promote", model, "2", *channel, code=1)
    run("history", model, *channel, "--json")
    run("pull", f"{model}@production", str(tmp_path / "pulled.safetensors"))
    run("verify")
    run("reconcile")
    # The servers fail, and what they say of it is handed on.
    no_mlflow = f"http://somebody:{IN_URLS}@{NOBODY}"
    run(
        "reconcile",
        code=2,
        MLFLOW_TRACKING_URI=no_mlflow,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    run("rollback", model, *channel, code=2)
    no_s3 = f"http://somebody:{IN_URLS}@{NOBODY}"
    run("list", code=2, AWS_ENDPOINT_URL_S3=no_s3, AWS_MAX_ATTEMPTS="1")
    assert all(said[-3:]), "they failed with a message"

    for name, address in {
        "list": f"s3://somebody:{IN_URLS}@bucket/prefix",
        "verify": f"s3://bucket/prefix?X-Amz-Security-Token={IN_URLS}",
    }.items():
        run(name, "--registry", address, code=2)
        assert "environment variables" in said[-1]

    store = open_store(on_s3)
    keys = list(store.list(""))
    assert len(keys) > 6
    for key in keys:
        without_canaries(key, store.read(key))
    for path in [*mlflow_server.folder.rglob("*"), *tmp_path.rglob("*")]:
        if path.is_file():
            without_canaries(str(path), path.read_bytes())
