"""Neither an error nor a log at DEBUG has a key, a token or a signature in it."""

from __future__ import annotations

import io
import logging

import boto3
import pytest
from servers.proxy import Answer

from sdpose.errors import UserError
from sdpose.storage import StoreUnavailableError, open_store

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-secret-01",
    "AWS_SESSION_TOKEN": "canary-session-02",
}
TOKEN, IN_URL = "canary.web.identity03", "canary-in-url-04"


@pytest.fixture
def said(swift, moto):
    """All that is logged, by anyone, at DEBUG; the servers, whose own client logs keys, are up."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(n) for n in (None, "botocore", "boto3", "s3transfer", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    yield stream
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def nothing_secret_in(*texts: str) -> None:
    for text in texts:
        for canary in (*SECRETS.values(), TOKEN, IN_URL, "AWS4-HMAC-SHA256", "X-Amz-Signature"):
            assert canary not in text


def test_logs_and_refusals(swift, proxied, said, monkeypatch):
    with proxied(swift) as (proxy, store):
        store.put("key", b"x")
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        wrong = open_store(store.uri("x"))
        for use in (wrong.read, wrong.exists, lambda key: wrong.put(key, b"x")):
            with pytest.raises(UserError) as refused:
                use("key")
            nothing_secret_in(str(refused.value))
        for answer in (Answer(403, "AccessDenied"), Answer(503, "SlowDown")):
            proxy.plan = lambda request, answer=answer: answer
            with pytest.raises(UserError) as refused:
                wrong.read("key")
            assert answer.code in str(refused.value)
            nothing_secret_in(str(refused.value))
    with pytest.raises(StoreUnavailableError, match="gave up after 6") as refused:  # no proxy
        wrong.read("key")
    nothing_secret_in(str(refused.value), said.getvalue())


def test_the_canaries_would_be_seen(swift, connect, said, monkeypatch):
    """boto3 itself, at DEBUG, says them all."""
    connect(swift)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=r"SignatureDoesNotMatch|Forbidden"):
        boto3.client("s3").list_buckets()
    with pytest.raises(AssertionError):
        nothing_secret_in(said.getvalue())


def test_an_endpoint_with_credentials(moto, connect, said, monkeypatch):
    store = connect(moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.url.replace("//", f"//me:{IN_URL}@"))
    with pytest.raises(UserError, match="has credentials") as refused:
        store.read("key")
    nothing_secret_in(str(refused.value), said.getvalue())


def test_a_token_that_is_refused(moto, proxied, said, tmp_path, monkeypatch):
    with proxied(moto) as (proxy, store):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        (tmp_path / "token").write_text(TOKEN)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pose")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.url)
        proxy.plan = lambda request: Answer(403, "AccessDenied")
        with pytest.raises(UserError, match="AccessDenied") as refused:
            store.read("key")
    nothing_secret_in(str(refused.value), said.getvalue())
