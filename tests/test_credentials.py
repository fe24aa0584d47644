"""Credentials as Secrets give them, with a line break at the end, and as libraries print them."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, quote_plus

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpose.credentials import (
    SECRET_VARIABLES,
    clean_environment,
    has_credentials,
    is_secret_name,
    without_secrets,
)
from sdpose.errors import UserError, user_errors

pytestmark = pytest.mark.slow

SECRET = "very-secret/+'value 0815"
RUN = "0b0e4c2e-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if is_secret_name(name) or name.endswith(("_PROXY", "_proxy")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", [*SECRET_VARIABLES, "HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_form_of_a_secret_is_redacted(
    name: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = SECRET + end
    monkeypatch.setenv(name, value)
    for text in (
        value,
        SECRET,
        repr(value),
        repr(value.encode()),
        repr(repr(value)),
        json.dumps({"header": value}),
        quote(SECRET),
        quote(value, safe=""),
        quote(value, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%27", "%27"),
        quote_plus(value),
        html.escape(SECRET),
    ):
        shown = without_secrets(f"it is {text} there")
        assert "very-secret" not in shown, shown
        assert "0815" not in shown, shown
        assert shown.startswith("it is ")
        assert shown.endswith(" there")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0*"), min_size=6, max_size=30))
def test_any_secret_is_redacted_however_it_is_escaped(secret: str) -> None:
    os.environ["KFP_TOKEN"] = secret
    try:
        for text in (secret, repr(secret), repr(secret.encode()), json.dumps(secret)):
            inside = text[1:-1].removeprefix("'") if text != secret else text
            assert inside not in without_secrets(f"<{text}>") or len(inside) < 6
    finally:
        del os.environ["KFP_TOKEN"]


def test_a_secret_that_is_the_beginning_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tester-1-and-more")
    assert without_secrets("it is tester-1-and-more") == "it is ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("b'Bearer abc.def\\n'", "b'Bearer ***\\n'"),
        ("Basic dXNlcjpodW50ZXIy now", "Basic *** now"),
        ("a basic authentication", "a basic authentication"),
        ("Cookie: session=abc; b=c", "Cookie: ***"),
        (
            "AWS4-HMAC-SHA256 Credential=AKIA/2026/s3, SignedHeaders=host, Signature=0a1b",
            "AWS4-HMAC-SHA256 Credential=***, SignedHeaders=host, Signature=***",
        ),
        ("postgresql+psycopg://u:hunter2@h/db", "postgresql+psycopg://***@h/db"),
        ("https://u:p@ss@h/x", "https://***@h/x"),
        ("https://u:pa/ss@h/x", "https://***@h/x"),
        ("http://mlflow:5000/a@b", "http://mlflow:5000/a@b"),
        ("registry://m@staging/x", "registry://***@staging/x"),
        ("s3://b/photo@2x.png", "s3://b/photo@2x.png"),
    ],
)
def test_what_looks_like_a_credential(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_password_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter%2F2secret@proxy:3128")
    assert "hunter" not in without_secrets("407 for ('me', 'hunter/2secret') and hunter%2F2secret")


def test_a_file_of_a_token_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    assert str(tmp_path) in without_secrets(f"cannot read {tmp_path}/token")


@pytest.mark.parametrize(
    "address",
    ["https://u@h", "s3://b/p?X-Amz-Security-Token=x", "https://h/?password=x", "h://h?a=b&sig=c"],
)
def test_addresses_with_credentials(address: str) -> None:
    assert has_credentials(address)


@pytest.mark.parametrize(
    "text",
    ["a" * 2_000_000, "://" * 700_000, "x://a:" * 300_000, "x://a?a=b&" * 200_000, "?" * 2_000_000],
    ids=["a word", "empty addresses", "addresses", "queries", "question marks"],
)
def test_a_long_text_takes_no_longer_than_it_is(text: str) -> None:
    """The time would grow with the square of its length: hours (pytest's own limit ends it)."""
    assert not has_credentials(text)
    assert without_secrets(text)[:100] == text[:100] or "?***" in without_secrets(text)


def test_entry_points_strip_what_libraries_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stripped = (
        *SECRET_VARIABLES,
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_S3",
        "MLFLOW_TRACKING_URI",
        "KFP_ENDPOINT",
        "SDPOSE_REGISTRY",
        "SDPOSE_S3_ADDRESSING",
        "HTTPS_PROXY",
        "HF_TOKEN",
    )
    for name in stripped:
        monkeypatch.setenv(name, "\ufeff value inside\r\n")
    monkeypatch.setenv("PS1", "sdpose $ ")
    with user_errors():
        assert {os.environ[name] for name in stripped} == {"value inside"}
    assert os.environ["PS1"] == "sdpose $ "


def test_the_region_counts_for_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "garage")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    clean_environment()
    assert boto3.session.Session().region_name == "garage"


def test_mlflows_address_loses_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter%2F2@host:5000/mlflow\n")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "another")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    clean_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://host:5000/mlflow"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hunter/2"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")  # one address
    clean_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "postgresql://me:secret@host/db"


def test_cleaning_twice_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", " a\n")
    clean_environment()
    before = dict(os.environ)
    clean_environment()
    assert dict(os.environ) == before


BUG = """
import os
from sdpose.errors import user_errors
with user_errors():
    raise RuntimeError("a header " + repr(os.environ["KFP_TOKEN"].encode()))
"""


def test_the_traceback_of_a_bug_has_no_secret(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUG],
        env={**os.environ, "KFP_TOKEN": SECRET + "\n", "PYTHONPATH": str(repository)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "very-secret" not in done.stderr
    assert done.stderr.endswith('***"\n')


class Recorder(BaseHTTPRequestHandler):
    """Answers 404; notes the headers that carry credentials."""

    seen: list[str]

    def _answer(self) -> None:
        self.seen.append(" ".join(self.headers.values()))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder():
    Recorder.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(repository: Path, folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "AWS_ACCESS_KEY_ID": "the-key-id",
            "AWS_SECRET_ACCESS_KEY": "the-secret-key",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "1",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PYTHONPATH": str(repository),
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


TRACK = """
from sdpose import tracking
from sdpose.errors import user_errors
with user_errors():
    tracking.start_run("q", params={}, tags={})
"""


@pytest.mark.parametrize(
    ("variable", "end"),
    [
        ("KFP_TOKEN", "\n"),
        ("KFP_COOKIE", "\r\n"),
        ("MLFLOW_TRACKING_TOKEN", "\n"),
        ("AWS_SESSION_TOKEN", "\r\n"),
        ("AWS_ACCESS_KEY_ID", "\n"),
    ],
)
def test_a_credential_that_ends_with_a_line_break_works(
    variable: str, end: str, recorder: str, repository: Path, tmp_path: Path
) -> None:
    """It arrives at the server without its end, and is in no message."""
    value = f"{variable.lower()}=very-secret"
    if variable.startswith("KFP"):
        command = [str(repository / "pipelines" / "submit.py"), "cancel", RUN]
        addresses = {"KFP_ENDPOINT": recorder + end}
    elif variable.startswith("MLFLOW"):
        command, addresses = ["-c", TRACK], {"MLFLOW_TRACKING_URI": recorder + end}
    else:
        command = ["-m", "sdpose", "registry", "list", "q"]
        addresses = {"AWS_ENDPOINT_URL_S3": recorder + end, "SDPOSE_REGISTRY": f"s3://b/r{end}"}
        addresses |= {"AWS_DEFAULT_REGION": f"us-east-1{end}", "SDPOSE_S3_ADDRESSING": f"path{end}"}
    said = run(repository, tmp_path, *command, **{variable: value + end}, **addresses)
    assert value not in said
    assert "very-secret" not in said
    assert any(value in headers for headers in Recorder.seen), (said, Recorder.seen)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_SESSION_TOKEN", "very\nsecret-token"),
        ("AWS_ACCESS_KEY_ID", "very\nsecret-id"),
        ("MLFLOW_TRACKING_TOKEN", "very\nsecret-token"),
        ("KFP_COOKIE", "very\nsecret-cookie"),
        ("KFP_COOKIE", "비밀very-secret"),
    ],
)
def test_a_credential_that_no_request_can_carry_is_named(
    variable: str, value: str, recorder: str, repository: Path, tmp_path: Path
) -> None:
    """Not called a broken connection, and not sent again; the variable is named."""
    if variable.startswith("KFP"):
        command = [str(repository / "pipelines" / "submit.py"), "cancel", RUN]
    elif variable.startswith("MLFLOW"):
        command = ["-c", TRACK]
    else:
        command = ["-m", "sdpose", "registry", "list", "q", "--registry", "s3://b/r"]
    said = run(
        repository,
        tmp_path,
        *command,
        **{variable: value},
        KFP_ENDPOINT=recorder,
        MLFLOW_TRACKING_URI=recorder,
        AWS_ENDPOINT_URL_S3=recorder,
        AWS_MAX_ATTEMPTS="6",
    )
    assert f"{variable} " in said
    assert "line breaks" in said
    assert "secret" not in said.replace("AWS_SECRET_ACCESS_KEY", "")
    assert "gave up" not in said


def test_bad_header_is_no_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library (`sdpose.load`), which has no entry point that strips."""
    from sdpose.storage import open_store

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "very-secret\n")
    with pytest.raises(UserError, match="AWS_SESSION_TOKEN") as refused:
        open_store("s3://bkt/x").read("k")
    assert "very-secret" not in str(refused.value)
    assert "gave up" not in str(refused.value)
