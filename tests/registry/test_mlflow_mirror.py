"""MLflow shows what the store holds: a real server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from made import Register
from mlflow import MlflowClient
from servers.mlflow import MlflowServer

from sdpose import tracking
from sdpose.cli import cli
from sdpose.errors import UserError
from sdpose.log_setup import log_to
from sdpose.registry.channels import set_channel
from sdpose.registry.gc import gc
from sdpose.registry.layout import blob_key, index_key, manifest_key
from sdpose.registry.mlflow_mirror import RUN_TAG, mirror_alias, named_weights, reconcile
from sdpose.registry.promote import promote, rollback
from sdpose.registry.withdraw import withdraw
from sdpose.storage import Store

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "sqlite":
        yield request.getfixturevalue("mlflow_server").uri
        return
    database = request.getfixturevalue("postgres")
    on_postgres = MlflowServer(tmp_path_factory.mktemp("mlflow_postgres"), database)
    yield on_postgres.start().uri
    on_postgres.stop()


@pytest.fixture
def root(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """In a folder with one database, on S3 with the other: MLflow gets other sources."""
    if "postgresql" in request.node.callspec.params.values():
        return str(request.getfixturevalue("on_s3"))
    return str(tmp_path / "registry")


@pytest.fixture
def model() -> str:
    """A name that no test had before: the server is shared."""
    return f"tiny-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return MlflowClient(server, server)


def shown(client: MlflowClient, model: str) -> dict[str, str]:
    """Our version to MLflow's."""
    found = client.search_model_versions(f"name = '{model}'")
    return {each.tags["sdpose.registry_version"]: str(each.version) for each in found}


def aliases(client: MlflowClient, model: str) -> dict[str, str]:
    return {k: str(v) for k, v in client.get_registered_model(model).aliases.items()}


def test_links_both_ways_and_aliases_that_follow(
    store: Store, register: Register, client: MlflowClient, model: str
) -> None:
    run = tracking.start_run("training", params={}, tags={})
    first = register(1, ap=0.5, model=model, mlflow_run_id=run.run_id)
    register(1, ap=0.5, model=model, mlflow_run_id=run.run_id)
    register(2, ap=0.6, model=model)
    assert shown(client, model) == {"1": "1", "2": "2"}
    version = client.get_model_version(model, "1")
    assert version.run_id == run.run_id
    assert version.tags["sdpose.manifest"] == first.manifest_uri
    assert version.tags["sdpose.sha256"] == first.sha256
    assert version.tags["AP"] == "0.5000"
    assert client.get_run(run.run_id).data.tags[RUN_TAG] == f"{model}@1"

    said: list[str] = []
    with log_to(said.append, ["sdpose.registry"]):
        promote(store, model, 1, "production", approver="kim")
        assert aliases(client, model) == {"production": "1"}
        promote(store, model, 2, "production", approver="kim")
        assert aliases(client, model) == {"production": "2"}
        rollback(store, model, "production", approver="kim")
    assert aliases(client, model) == {"production": "1"}
    assert said == []
    assert reconcile(store, model) == []


def test_every_kind_of_drift_is_repaired(
    store: Store, register: Register, client: MlflowClient, model: str
) -> None:
    run = tracking.start_run("training", params={}, tags={})
    for seed in (1, 2, 3):
        register(seed, model=model, ap=seed / 10, mlflow_run_id=run.run_id if seed == 1 else None)
    promote(store, model, 1, "production", approver="kim")
    promote(store, model, 2, "staging", approver="kim")
    twin = client.get_model_version(model, "2")
    client.create_model_version(model, "s3://other/weights")  # 4: somebody's own
    client.create_model_version(model, twin.source, tags=dict(twin.tags))  # 5
    stale = dict(twin.tags) | {"sdpose.identity": "0" * 64}
    client.create_model_version(model, twin.source, tags=stale)  # 6
    client.set_registered_model_alias(model, "production", "3")
    client.delete_registered_model_alias(model, "staging")
    client.set_registered_model_alias(model, "candidate", "2")
    client.set_registered_model_alias(model, "mine", "4")
    client.set_model_version_tag(model, "1", "AP", "0.9999")
    client.delete_model_version_tag(model, "1", "sdpose.sha256")
    client.set_tag(run.run_id, RUN_TAG, "another@7")
    client.delete_model_version(model, "3")  # the alias goes with it

    wrong = reconcile(store, model, dry_run=True)
    assert aliases(client, model) == {"candidate": "2", "mine": "4"}
    repaired = reconcile(store, model)
    assert [repair.what for repair in repaired] == [repair.what for repair in wrong]
    assert sorted(repair.what.split(",")[0] for repair in repaired) == [
        "MLflow's version 5 is none of the registry's",
        "MLflow's version 6 is none of the registry's",
        "alias candidate is at 2",
        "alias production is at None",
        "alias staging is at None",
        f"run {run.run_id} should name {model}@1",
        "version 1: tags AP",
        "version 3 is not in MLflow",
    ]
    assert reconcile(store, model) == []
    numbers = {str(v.version) for v in client.search_model_versions(f"name = '{model}'")}
    assert numbers == {"1", "2", "4", "7"}
    assert aliases(client, model) == {"production": "1", "staging": "2", "mine": "4"}
    assert client.get_model_version(model, "1").tags["AP"] == "0.1000"


def test_gc_keeps_what_mlflow_names(
    store: Store, register: Register, client: MlflowClient, model: str, root: str
) -> None:
    version = register(1, model=model)
    for key in (manifest_key(model, 1), index_key(model)):
        store.delete(key)  # by hand
    assert gc(store).marked == (version.sha256,)
    assert gc(store, named_elsewhere=named_weights()).marked == ()
    with pytest.MonkeyPatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", NOBODY)
        command = ["registry", "gc", "--delete", "--registry", root]
        silent = CliRunner().invoke(cli, command)
    assert isinstance(silent.exception, UserError)
    assert store.exists(blob_key(version.sha256))


def test_mlflow_is_down(
    store: Store,
    register: Register,
    client: MlflowClient,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry goes on, says so, and MLflow learns of it later."""
    register(1, model=model)
    said: list[str] = []
    with monkeypatch.context() as down, log_to(said.append, ["sdpose.registry"]):
        down.setenv("MLFLOW_TRACKING_URI", NOBODY)
        assert register(2, model=model).version == 2
        record = promote(store, model, 2, "production", approver="kim")
    assert record["allowed"]
    assert len(said) == 2
    assert all("`sdpose registry reconcile` will" in line for line in said)
    assert all(line.startswith("warning: ") for line in said)
    assert shown(client, model) == {"1": "1"}
    assert len(reconcile(store, model)) == 2
    assert shown(client, model) == {"1": "1", "2": "2"}
    assert aliases(client, model) == {"production": "2"}


def test_an_alias_that_was_overtaken_is_set_again(
    store: Store, register: Register, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    """A promoter stops between the pointer and the alias; the next one sets the right alias."""
    versions = [register(seed, model=model) for seed in (1, 2)]
    for version in versions:  # no alias follows
        set_channel(store, version, "staging", action="promote", approver="kim")
    mirror_alias(store, model, "staging")
    assert aliases(client, model) == {"staging": "2"}


def test_a_withdrawn_version_leaves_mlflow(
    store: Store, register: Register, client: MlflowClient, model: str
) -> None:
    # Weights that no other test registers: the server is shared.
    first = register(91, model=model)
    register(2, model=model)
    withdraw(store, model, 1, reason="trained on faces", approver="kim")
    assert shown(client, model) == {"2": "2"}
    assert reconcile(store, model) == []
    assert first.sha256 not in named_weights()  # so that gc can remove them
    again = register(91, model=model)
    assert shown(client, model) == {"2": "2", str(again.version): "3"}

    said: list[str] = []
    with pytest.MonkeyPatch.context() as down, log_to(said.append, ["sdpose.registry"]):
        down.setenv("MLFLOW_TRACKING_URI", NOBODY)
        withdraw(store, model, 2, reason="the same", approver="kim")
    assert len(said) == 1
    (repair,) = reconcile(store, model)
    assert "MLflow's version 2 is none of the registry's" in repair.what
    assert shown(client, model) == {str(again.version): "3"}
