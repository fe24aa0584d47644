"""What a user can configure of S3 reaches the server: each option on a real connection."""

from __future__ import annotations

import hashlib
import os

import pytest
from servers.s3 import moto_server
from servers.tls import self_signed

from sdpose.errors import UserError
from sdpose.storage import open_store, s3_store

KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
STATIC = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_every_kind_of_write_is_encrypted(kind, moto, connect, tmp_path, monkeypatch):
    monkeypatch.setenv("SDPOSE_S3_SSE", kind)
    key = KMS_KEY if kind == "aws:kms" else None
    if key:
        monkeypatch.setenv("SDPOSE_S3_SSE_KMS_KEY_ID", key)
    monkeypatch.setattr(s3_store, "PART_BYTES", 1 << 16)
    store = connect(moto)
    store.put("put", b"1")
    assert store.put_if_absent("swapped", b"1")
    assert store.swap("swapped", b"2", store.read_tagged("swapped")[1])
    for name, size in {"file": 9, "parts": 200_000}.items():
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        store.put_file(path, name, hashlib.sha256(path.read_bytes()).hexdigest())
    for name in ("put", "swapped", "file", "parts"):
        place = {"Bucket": store.bucket, "Key": f"{store.prefix}/{name}"}
        head = moto.client().head_object(**place)
        assert (head["ServerSideEncryption"], head.get("SSEKMSKeyId")) == (kind, key), name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SDPOSE_S3_SSE", "aes", "SDPOSE_S3_SSE is 'aes': allowed are AES256, aws:kms"),
        ("SDPOSE_S3_SSE_KMS_KEY_ID", KMS_KEY, "set SDPOSE_S3_SSE=aws:kms too"),
        ("SDPOSE_S3_ADDRESSING", "host", "allowed are path, virtual"),
        ("SDPOSE_S3_TIMEOUT", "soon", "give seconds, more than 0"),
        ("AWS_PROFILE", "nobody", r"profile \(nobody\) could not be found"),
        ("AWS_ENDPOINT_URL_S3", "127.0.0.1:1", "the S3 configuration is wrong"),
    ],
)
def test_wrong_options_are_named(name, value, message, moto, connect, monkeypatch):
    store = connect(moto)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        store.put("key", b"x")


def test_tls_with_an_authority_of_ones_own(connect, tmp_path, monkeypatch):
    certificate, key = self_signed(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with moto_server(tmp_path, (certificate, key)) as server:
        store = connect(server)
        store.put("key", b"value")
        assert store.read("key") == b"value"
        monkeypatch.delenv("AWS_CA_BUNDLE")
        with pytest.raises(UserError, match="certificate in AWS_CA_BUNDLE"):
            open_store(store.uri("key")).read("key")
        for wrong in (tmp_path / "missing.pem", key):
            monkeypatch.setenv("AWS_CA_BUNDLE", str(wrong))
            with pytest.raises(UserError, match=f"AWS_CA_BUNDLE is '{wrong}'"):
                open_store(store.uri("key")).read("key")


@pytest.mark.parametrize(
    ("endpoint", "chosen", "sent_to"),
    [
        ("http://s3.amazonaws.com", None, "http://{bucket}.s3.amazonaws.com/"),
        ("http://s3.amazonaws.com", "path", "http://s3.amazonaws.com/{bucket}/"),
        ("http://s3.example.test", None, "http://s3.example.test/{bucket}/"),
        ("http://s3.example.test", "virtual", "http://{bucket}.s3.example.test/"),
    ],
)
def test_addressing(endpoint, chosen, sent_to, moto, proxied, monkeypatch):
    """The fault proxy is the HTTP proxy here, so that any name resolves."""
    with proxied(moto) as (proxy, store):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        if chosen:
            monkeypatch.setenv("SDPOSE_S3_ADDRESSING", chosen)
        store.exists("key")
        (request,) = proxy.requests
        assert request.path == f"{sent_to.format(bucket=store.bucket)}{store.prefix}/key"


def test_a_profile_has_the_keys(swift, connect, tmp_path, monkeypatch):
    """Swift checks signatures."""
    store = connect(swift)
    keys = tmp_path / "credentials"
    keys.write_text(
        f"[default]\naws_access_key_id={swift.access_key}\naws_secret_access_key=wrong\n"
        f"[pose]\naws_access_key_id={swift.access_key}\n"
        f"aws_secret_access_key={swift.secret_key}\n"
    )
    for name in STATIC:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    with pytest.raises(UserError, match="Check AWS_SECRET_ACCESS_KEY"):
        open_store(store.uri("key")).put("key", b"x")
    monkeypatch.setenv("AWS_PROFILE", "pose")
    store.put("key", b"value")
    assert store.read("key") == b"value"


def test_a_pod_has_its_role_by_web_identity(moto, proxied, tmp_path, monkeypatch):
    """IRSA: a token in a file is changed for keys at STS."""
    with proxied(moto) as (proxy, store):
        for name in STATIC:
            monkeypatch.delenv(name)
        with pytest.raises(UserError, match="no credentials"):
            open_store(store.uri("key")).put("key", b"x")
        token = tmp_path / "token"
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pose")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.url)
        with pytest.raises(UserError, match=str(token)):
            open_store(store.uri("key")).put("key", b"x")
        token.write_text("a.b.c")
        proxy.reset()
        store.put("key", b"value")
        assert store.read("key") == b"value"
        assert [r.path for r in proxy.requests if r.method == "POST"] == ["/"]
