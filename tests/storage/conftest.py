from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.proxy import FaultProxy
from servers.s3 import S3Server

from sdpose import retry
from sdpose.storage import Store, open_store

Connect = Callable[..., Store]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """What an endpoint guarantees is found out once in a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def impatient(monkeypatch, cache):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("SDPOSE_CACHE", str(cache))


@pytest.fixture
def connect(monkeypatch) -> Connect:
    """connect(server): an empty store there, for this test alone; url: of a proxy in between."""

    def store(server: S3Server, url: str | None = None) -> Store:
        for name, value in server.environment(url).items():
            monkeypatch.setenv(name, value)
        return open_store(f"s3://{server.bucket}/{uuid.uuid4().hex}")

    return store


@pytest.fixture(params=["file", "swift", "moto"])
def store(request, tmp_path, connect) -> Store:
    if request.param == "file":
        return open_store(tmp_path / "store")
    return connect(request.getfixturevalue(request.param))


@pytest.fixture(params=["file", "moto"])
def strict_store(request, tmp_path, connect) -> Store:
    """One that has conditional writes."""
    if request.param == "file":
        return open_store(tmp_path / "store")
    return connect(request.getfixturevalue(request.param))


@pytest.fixture
def proxied(connect) -> Callable[[S3Server], contextlib.AbstractContextManager]:
    @contextlib.contextmanager
    def open_proxied(server: S3Server) -> Iterator[tuple[FaultProxy, Store]]:
        with FaultProxy.to(server.url) as proxy:
            yield proxy, connect(server, proxy.url)

    return open_proxied
