"""What a server says reaches the user, only S3 is believed, and S3 of every kind can be used."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from datetime import timedelta

import botocore.auth
import pytest
from servers import odd_s3
from servers.proxy import Cut

from sdpose.errors import UserError
from sdpose.storage import DamagedObjectError, Store, open_store, s3_store

SHA256 = hashlib.sha256(b"value").hexdigest()


def _uses(store: Store, tmp_path) -> dict[str, object]:
    """The operations, each with a first request of its own kind."""
    source = tmp_path / "source"
    source.write_bytes(b"value")
    return {
        "head": lambda: store.exists("key"),
        "put_file": lambda: store.put_file(source, "key", SHA256),
        "get_file": lambda: store.get_file("key", tmp_path / "target"),
        "read": lambda: store.read_tagged("key"),
        "list": lambda: list(store.list("")),
        "put": lambda: store.put("key", b"value"),
        "delete": lambda: store.delete("key"),
        "sweep": lambda: store.sweep(timedelta(0)),
        "room": store.room,
    }


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (odd_s3.error(403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed.*Set the clock of this"),
        (odd_s3.error(400, "ExpiredToken"), "ExpiredToken.*Get new credentials"),
        (odd_s3.error(403, "InvalidAccessKeyId"), "Check AWS_ACCESS_KEY_ID and"),
        (odd_s3.error(403, "SignatureDoesNotMatch"), "Check AWS_SECRET_ACCESS_KEY"),
        (
            odd_s3.error(400, "AuthorizationHeaderMalformed", more="<Region>garage</Region>"),
            "Set AWS_REGION to garage",
        ),
        (
            odd_s3.error(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1"),
            "PermanentRedirect.*Set AWS_REGION to eu-central-1",
        ),
        (
            odd_s3.error(307, "TemporaryRedirect", more="<Endpoint>s3.other.test</Endpoint>"),
            "TemporaryRedirect.*s3.other.test",
        ),
        (odd_s3.error(403, "AccessDenied"), "AccessDenied.*The credentials need s3:"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.answer.body.decode()[13:33],
)
def test_the_reason_of_a_refusal_is_reported(refusal, told, moto, proxied, tmp_path):
    """The answer to HEAD, the first request of a registration, has none."""
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(refusal)
        for name, use in _uses(store, tmp_path).items():
            with pytest.raises(UserError, match=f"(?s){told}") as refused:
                use()
            assert f"s3://{store.bucket}" in str(refused.value), name


def test_a_real_server_gives_its_reason(swift, connect, tmp_path, monkeypatch):
    store = connect(swift)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(UserError, match=r"(?s)SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"):
            open_store(store.uri("x")).exists("key")
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda *args, **kwargs: now(*args, **kwargs) - timedelta(minutes=20),
    )
    for use in (store.exists, store.read):
        with pytest.raises(UserError, match=r"(?s)RequestTimeTooSkewed.*clock.*, the server \w+, "):
            use("key")


def test_what_is_missing_is_not_asked_for_twice(moto, swift, proxied):
    """404 with S3's headers needs no reason."""
    for server in (moto, swift):
        with proxied(server) as (proxy, store):
            assert not store.exists("key")
            assert len(proxy.requests) == 1


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_read(name, moto, proxied, monkeypatch):
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.insists_on_region("garage")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv(name, "garage")
        store.put("key", b"value")
        assert store.read("key") == b"value"


@pytest.mark.parametrize("use", ["read", "list", "put", "delete", "sweep"])
def test_the_right_that_is_missing_is_named(use, moto, proxied, tmp_path):
    rights = {
        "read": "s3:GetObject, and s3:ListBucket",
        "list": "s3:ListBucket on the bucket",
        "put": "s3:GetObject, s3:PutObject",
        "delete": "s3:DeleteObject",
        "sweep": "s3:ListBucketMultipartUploads",
    }
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(odd_s3.error(403, "AccessDenied"))
        with pytest.raises(UserError, match=rights[use]) as refused:
            _uses(store, tmp_path)[use]()
        if use == "read":
            assert "PutObject" not in str(refused.value)


def test_a_bucket_with_object_lock(moto, proxied, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_store, "PART_BYTES", 1 << 16)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))  # the endpoint is probed, too
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.object_lock()
        store.put("put", b"1")
        assert store.put_if_absent("new", b"1")
        assert store.swap("new", b"2", store.read_tagged("new")[1])
        for name, size in {"small": 9, "parts": 200_000}.items():
            path = tmp_path / name
            path.write_bytes(os.urandom(size))
            store.put_file(path, name, hashlib.sha256(path.read_bytes()).hexdigest())
            store.get_file(name, tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_metadata_whose_names_have_capitals(moto, proxied, tmp_path):
    """The SHA-256 is checked, and a write whose answer is lost is known to be ours."""
    with proxied(moto) as (proxy, store):
        assert store.capabilities().swap
        capitals = odd_s3.capital_headers()
        proxy.plan = capitals
        store.put("key", b"value")
        place = {"Bucket": store.bucket, "Key": f"{store.prefix}/key"}
        metadata = moto.client().head_object(**place)["Metadata"]
        moto.client().put_object(**place, Body=b"wrong", Metadata=metadata)
        with pytest.raises(DamagedObjectError):
            store.read("key")
        with pytest.raises(DamagedObjectError):
            store.get_file("key", tmp_path / "target")

        lost = []

        def loses_one_answer(request):
            if request.method == "PUT" and not lost:
                lost.append(request)
                return Cut("after")
            return capitals(request)

        proxy.plan = loses_one_answer
        assert store.put_if_absent("new", b"value")
        assert lost


def test_a_server_without_a_key_service(moto, proxied, monkeypatch):
    monkeypatch.setenv("SDPOSE_S3_SSE", "AES256")
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.no_key_service()
        for write in (store.put, store.put_if_absent):
            with pytest.raises(UserError, match=r"(?s)NotImplemented.*Unset SDPOSE_S3_SSE"):
                write("key", b"value")


@pytest.mark.parametrize("status", [405, 412, 501])
def test_a_server_that_takes_nothing(status, moto, proxied, tmp_path):
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(odd_s3.error(status, "NotImplemented"))
        for use in _uses(store, tmp_path).values():
            with contextlib.suppress(UserError):  # and nothing else
                use()


NOT_S3 = {
    "an ingress without its backend": odd_s3.answer(404, odd_s3.PAGE, "text/html"),
    "without a body": odd_s3.answer(404, b"", "text/plain"),
    "a login page": odd_s3.answer(200, odd_s3.PAGE, "text/html"),
    "a login page that is no XML": odd_s3.answer(200, b"<html><br><p>Log in", "text/html"),
    "a page with an ETag": odd_s3.answer(200, odd_s3.PAGE, "text/html", (("ETag", '"1"'),)),
    "JSON": odd_s3.answer(200, b'{"status": "ok"}', "application/json"),
    "nothing": odd_s3.answer(204),
    "a refusal of another server": odd_s3.answer(403, odd_s3.PAGE, "text/html"),
    "a login elsewhere": odd_s3.answer(302, b"", "text/html", (("Location", "https://sso.test"),)),
    "plain HTTP to an HTTPS port": odd_s3.answer(400, odd_s3.PAGE, "text/html"),
    "a redirect without end": odd_s3.answer(307, b"", "text/html", (("Location", "/x"),)),
    "XML of another kind": odd_s3.answer(200, b"<a><b/><b/></a>"),
    "numbers that are none": odd_s3.answer(
        200, b"<ListBucketResult><MaxKeys>x</MaxKeys></ListBucketResult>", headers=(("ETag", "x"),)
    ),
    "an error of another form": odd_s3.answer(
        404, b"<Error><Code>a</Code><Code>b</Code><Message><p/></Message></Error>"
    ),
}


@pytest.mark.parametrize("which", NOT_S3)
def test_what_is_no_s3_is_not_believed(which, moto, proxied, tmp_path, monkeypatch):
    """404 from such a server is no statement that there is no object."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with proxied(moto) as (proxy, store):
        assert store.capabilities().swap
        proxy.plan = odd_s3.always(NOT_S3[which])
        uses = _uses(store, tmp_path)
        for name in ("head", "put_file", "get_file", "read", "list", "put", "sweep"):
            if which == "numbers that are none" and name not in ("list", "sweep"):
                continue
            with pytest.raises(UserError, match=re.escape(proxy.url)) as refused:
                uses[name]()
            assert "AWS_ENDPOINT_URL_S3" in str(refused.value), name


def test_a_redirect_is_reported(moto, proxied):
    with proxied(moto) as (proxy, store):
        location = ("Location", "https://s3.test/bucket")
        proxy.plan = odd_s3.always(odd_s3.answer(308, odd_s3.PAGE, "text/html", (location,)))
        with pytest.raises(UserError, match=re.escape("redirects to https://s3.test/bucket")):
            store.exists("key")


def test_what_a_server_says_stays_on_its_line(moto, proxied):
    said = "made\n  to\x9b2J look" + "x" * 100_000
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(odd_s3.error(403, "Odd", said))
        with pytest.raises(UserError, match=r"made to\?2J lookx") as refused:
            store.read("key")
        assert len(str(refused.value)) < 1000
        assert "\n" not in str(refused.value)
