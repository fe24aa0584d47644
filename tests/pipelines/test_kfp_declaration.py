"""The tests' KFP server knows what its releases declare, and nothing else."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from servers.kfp import KfpServer
from servers.kfp_declaration import VERSIONS, Declaration

from pipelines.kfp_client.version import TESTED

RUNS = "/apis/v2beta1/runs"


def test_all_releases_that_are_there_are_tested(kfp_api: Path) -> None:
    there = {path.name for path in kfp_api.glob("*.swagger.json")}
    assert there == {f"kfp-{version}.swagger.json" for version in VERSIONS}
    assert TESTED == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_release_does_not_declare_is_found(kfp_api: Path, version: str) -> None:
    declaration = Declaration(kfp_api, version)
    create = declaration.operation("POST", RUNS)
    assert create is not None
    assert declaration.of_request(create, {}, {"display_name": "x"}) == []
    assert declaration.of_request(create, {"dry_run": "1"}, {}) == [
        "unknown query parameter dry_run"
    ]
    for body in ({"display_nam": "x"}, {"display_name": 1}, {"state": "DONE"}):
        assert declaration.of_request(create, {}, body), body
    plugins = {"plugins_input": {"mlflow": {}}}  # new in 2.17
    assert bool(declaration.of_request(create, {}, plugins)) == (version != "2.17.0")
    run = {"run_id": "1", "created_at": "2026-11-25T20:00:00Z"}
    assert declaration.of_answer(create, 200, run) == []
    assert declaration.of_answer(create, 200, run | {"created_at": "yesterday"})
    assert declaration.of_answer(create, 200, run | {"script": []})
    assert declaration.of_answer(create, 404, {"code": 5, "message": "not found"}) == []
    assert declaration.of_answer(create, 404, {"error": "not found"})
    retry = declaration.operation("POST", f"{RUNS}/1:retry")
    assert retry is not None
    assert retry.path.endswith(":retry")
    assert declaration.of_answer(retry, 200, {"retried": True})
    assert declaration.operation("POST", f"{RUNS}/1:restart") is None
    assert declaration.operation("PUT", RUNS) is None


@pytest.mark.parametrize("kfp_version", ["2.16.1"])
def test_the_server_refuses_it_and_the_test_fails(kfp_server: KfpServer) -> None:
    body = json.dumps({"display_name": "x", "plugins_input": {}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(kfp_server.url + RUNS, data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value:
        assert refused.value.code == 400
        assert "plugins_input" in json.loads(refused.value.read())["message"]
    [undeclared] = kfp_server.undeclared  # which the fixture asserts to be empty
    assert "plugins_input" in undeclared
    kfp_server.undeclared.clear()
