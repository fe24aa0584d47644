"""What an endpoint guarantees is tried, remembered, and refused if it is not there."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from servers.proxy import Ignore

from sdpose.errors import UserError
from sdpose.storage import open_store


@pytest.fixture(autouse=True)
def nothing_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))


def test_servers_are_seen_as_they_are(moto, swift, connect):
    known = connect(moto).capabilities()
    assert (known.put_if_absent, known.swap, known.checksums) == (True, True, False)
    assert known.reasons == ("Content-MD5: a body that did not fit its checksum was accepted",)
    assert known.etags
    known = connect(swift).capabilities()
    assert (known.put_if_absent, known.swap, known.checksums) == (False, False, True)
    assert known.etags
    assert len(known.reasons) == 2


def test_what_is_not_guaranteed_is_refused(swift, connect, monkeypatch):
    store = connect(swift)
    with pytest.raises(UserError, match=r"(?s)does not guarantee.*If-None-Match.*SINGLE_WRITER"):
        store.put_if_absent("key", b"x")
    assert not store.exists("key")
    store.put("key", b"one")
    with pytest.raises(UserError, match=r"(?s)does not guarantee.*If-Match"):
        store.swap("key", b"two", store.read_tagged("key")[1])
    assert store.read("key") == b"one"
    monkeypatch.setenv("SDPOSE_S3_SINGLE_WRITER", "true")
    assert not store.put_if_absent("key", b"x")
    assert store.swap("key", b"two", store.read_tagged("key")[1])


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
@pytest.mark.parametrize("obeyed", [0, 2])
def test_a_server_that_obeys_now_and_then(header, obeyed, moto, proxied):
    """It ignores the condition always, or from the third write of a key on: in a race."""
    writes: Counter[str] = Counter()

    def forgetful(request):
        writes[request.path] += request.method == "PUT"
        return Ignore(header) if writes[request.path] > obeyed else None

    with proxied(moto) as (proxy, store):
        proxy.plan = forgetful
        known = store.capabilities()
        guaranteed = {"If-None-Match": known.put_if_absent, "If-Match": known.swap}
        assert not guaranteed.pop(header)
        assert all(guaranteed.values())
        seen = "the server ignores it" if obeyed == 0 else "of 8 writers won a race"
        assert any(reason.startswith(header) and seen in reason for reason in known.reasons)
        assert not list(store.list("")), "the probe leaves nothing"


def test_it_is_remembered_for_a_week(moto, proxied, tmp_path):
    with proxied(moto) as (proxy, store):

        def again() -> bool:
            proxy.reset()
            assert open_store(store.uri("x")).capabilities().swap
            return bool(proxy.requests)

        assert again()
        assert not again()
        (path,) = (tmp_path / "cache").rglob("*.json")
        content = json.loads(path.read_text())
        content["probed_at"] = (datetime.now(UTC) - timedelta(days=8)).isoformat()
        path.write_text(json.dumps(content))
        assert again()
        assert not again()
        path.write_text("{")
        assert again()


@pytest.mark.parametrize(
    "change",
    [
        {"probed_at": "2999-01-01T00:00:00+00:00"},
        {"probed_at": "2026-11-30T09:00:00"},
        {"probed_at": 1e300},
        {"swap": 1},
        {"swap": "true"},
        {"reasons": "none"},
        {"reasons": [["none"]]},
        {"bucket": "another"},
        {"endpoint": "http://another.test"},
        {"more": True},
        None,
    ],
    ids=str,
)
def test_a_record_that_is_none_is_not_believed(change, moto, proxied, tmp_path):
    """A clock that was wrong, a file of another program, or one that somebody has copied here."""
    with proxied(moto) as (proxy, store):
        assert store.capabilities().swap
        (path,) = (tmp_path / "cache").rglob("*.json")
        content = json.loads(path.read_text())
        path.write_text(json.dumps([] if change is None else content | change))
        for probed in (True, False):
            proxy.reset()
            assert open_store(store.uri("x")).capabilities().swap
            assert bool(proxy.requests) == probed


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_record_that_others_can_write_is_not_believed(mode, moto, proxied, tmp_path):
    with proxied(moto) as (proxy, store):
        assert store.capabilities().swap
        (path,) = (tmp_path / "cache").rglob("*.json")
        path.chmod(mode)
        proxy.reset()
        assert open_store(store.uri("x")).capabilities().swap
        assert proxy.requests
