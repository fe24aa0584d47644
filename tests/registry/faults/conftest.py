"""Fixtures: the registry of operations.py on an S3 server, behind a proxy that can fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from operations import (
    Client,
    make_checkpoints,
    make_registry,
    new_folder,
    small_parts_and_pauses,
)
from servers.proxy import FaultProxy
from servers.s3 import S3Server


@pytest.fixture(scope="module")
def server(request) -> S3Server:
    """Tests name it: moto has conditional writes, Swift checks every checksum."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def proxy(server) -> Iterator[FaultProxy]:
    with FaultProxy.to(server.url) as running:
        yield running


@pytest.fixture(scope="module")
def environment(server, proxy, tmp_path_factory) -> dict[str, str]:
    return server.environment(proxy.url) | {
        "SDPOSE_CACHE": str(tmp_path_factory.mktemp("cache")),
        "SDPOSE_S3_SINGLE_WRITER": "true" if server.name == "swift" else "false",
    }


@pytest.fixture(scope="module")
def checkpoints(experiment, tmp_path_factory) -> Path:
    return make_checkpoints(tmp_path_factory.mktemp("checkpoints"), experiment)


@pytest.fixture
def on_s3(environment, proxy, monkeypatch) -> Iterator[None]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    proxy.reset()
    with small_parts_and_pauses():
        yield


@pytest.fixture(scope="module")
def template(server, environment, checkpoints) -> Client:
    with pytest.MonkeyPatch.context() as patch, small_parts_and_pauses():
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = Client(f"s3://{server.new_bucket()}/template", checkpoints, checkpoints)
        make_registry(client)
    return client


@pytest.fixture
def fresh(server, template, on_s3, tmp_path) -> Callable[[], Client]:
    """fresh(): a copy of the registry, and a client of it; the copy before is deleted, for moto
    keeps all in memory."""
    s3 = server.client()
    bucket = template.uri.split("/")[2]

    def keys(folder: str) -> list[str]:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/").get("Contents", ())
        return [entry["Key"] for entry in found]

    originals, name = keys("template"), ""

    def copy() -> Client:
        nonlocal name
        if name and (old := keys(name)):
            s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in old]})
        name = uuid.uuid4().hex
        for original in originals:
            source = {"Bucket": bucket, "Key": original}
            key = original.replace("template", name, 1)
            s3.copy_object(Bucket=bucket, Key=key, CopySource=source)
        return replace(template, uri=f"s3://{bucket}/{name}", folder=new_folder(tmp_path))

    return copy
