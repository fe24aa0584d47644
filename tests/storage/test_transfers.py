"""A file goes up once, and down only if the server cannot vouch for what arrived."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from servers import odd_s3
from servers.proxy import Edit, FaultProxy, FlipBit, Message

from sdpose.errors import UserError
from sdpose.storage import s3_store

PART = 1 << 16
SIZES = {"one part": 50_000, "five parts": 300_000, "nothing": 0}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(s3_store, "PART_BYTES", PART)
    monkeypatch.setattr(s3_store, "SEGMENT_BYTES", PART)


def _new_file(tmp_path: Path, size: int) -> tuple[Path, str]:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(size))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _moved(proxy: FaultProxy, key: str) -> tuple[int, int]:
    """Bytes up, and the number of requests for bytes."""
    of_key = [request for request in proxy.requests if f"/{key}" in request.path]
    up = sum(request.size for request in of_key if request.method == "PUT")
    return up, sum(request.method == "GET" for request in of_key)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ["moto", "swift"])
def test_a_file_goes_up_once_and_not_down(name, size, request, proxied, tmp_path):
    server = request.getfixturevalue(name)
    with proxied(server) as (proxy, store):
        store.capabilities()
        for _ in range(2):  # new, and in place of another one of that size
            source, sha256 = _new_file(tmp_path, size)
            proxy.reset()
            store.put_file(source, "latest", sha256)
            assert _moved(proxy, "latest") == (size, 0)
            assert store.digest("latest") == sha256
        proxy.reset()
        store.put_file(source, "latest", sha256)
        assert _moved(proxy, "latest") == (0, 0)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_small_object_goes_up_once_and_not_down(size, moto, proxied):
    with proxied(moto) as (proxy, store):
        store.capabilities()
        proxy.reset()
        store.put("put", bytes(size))
        assert store.put_if_absent("new", bytes(size))
        assert [request.method for request in proxy.requests] == ["PUT", "PUT"]


def _other_etags(message: Message) -> Message:
    """As with encryption by KMS, or of a server that numbers its objects."""
    if not message.header("etag"):
        return message
    renamed = message.without("etag")
    etag = hashlib.sha256(message.header("etag").encode()).hexdigest()[:32]
    renamed.headers.append(("ETag", f'"{etag}"'))
    return renamed


@pytest.mark.parametrize("size", [50_000, 300_000])
def test_what_no_one_vouches_for_is_read_back(size, moto, proxied, tmp_path, monkeypatch):
    """moto takes a body that does not fit its Content-MD5."""
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    source, sha256 = _new_file(tmp_path, size)
    flipped = []

    def plan(request):
        if request.method == "PUT" and request.size > PART // 2 and not flipped:
            flipped.append(request)
            return FlipBit("upload")
        # A part is completed by the ETag that moto knows.
        return None if "uploadId" in request.path else Edit(answer=_other_etags)

    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.always(Edit(answer=_other_etags))
        known = store.capabilities()
        assert (known.checksums, known.etags) == (False, False)
        proxy.reset()
        proxy.plan = plan
        store.put_file(source, "file", sha256)
        assert flipped
        assert _moved(proxy, "file")[1]
        assert store.digest("file") == sha256


@pytest.mark.parametrize("size", [50_000, 300_000])
@pytest.mark.parametrize("way", ["put", "put_file"])
def test_damage_on_the_way_is_seen_by_the_etag(way, size, moto, proxied, tmp_path):
    source, sha256 = _new_file(tmp_path, size)
    with proxied(moto) as (proxy, store):
        assert store.capabilities().etags
        proxy.reset()
        flipped = []

        def plan(request):
            if request.method == "PUT" and not flipped:
                flipped.append(request)
                return FlipBit("upload")
            return None

        proxy.plan = plan
        if way == "put":
            store.put("key", source.read_bytes())
        else:
            store.put_file(source, "key", sha256)
        assert flipped
        assert store.digest("key") == sha256


def test_an_etag_that_repeats_what_was_said_proves_nothing(moto, proxied, tmp_path, monkeypatch):
    import base64

    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))

    def parrot(request):
        said = request.headers.get("content-md5")
        if request.method != "PUT" or said is None:
            return None
        return Edit(answer=lambda message: _named(message, base64.b64decode(said).hex()))

    def _named(message: Message, etag: str) -> Message:
        renamed = message.without("etag")
        renamed.headers.append(("ETag", f'"{etag}"'))
        return renamed

    with proxied(moto) as (proxy, store):
        proxy.plan = parrot
        assert not store.capabilities().etags


def test_a_file_that_is_not_what_was_said_stores_nothing(store, tmp_path):
    for size in (50_000, 300_000):
        source, _ = _new_file(tmp_path, size)
        with pytest.raises(UserError, match="changed while it was copied"):
            store.put_file(source, "key", "0" * 64)
        assert not store.exists("key")


def test_a_cache_that_ignores_ranges(moto, proxied, tmp_path):
    """Intact bytes are not called damaged."""
    source, sha256 = _new_file(tmp_path, 300_000)
    with proxied(moto) as (proxy, store):
        proxy.plan = odd_s3.ignores_range()
        store.put_file(source, "large", sha256)
        for use in (store.digest, lambda key: store.get_file(key, tmp_path / "target")):
            with pytest.raises(
                UserError, match="does not give the range that was asked for, but the whole"
            ):
                use("large")
        assert not (tmp_path / "target").exists()
        store.put("small", b"value")
        store.get_file("small", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"value"
