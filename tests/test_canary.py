"""A credential goes into every leaf of every schema, and into every variable that holds one: no
output has it. The leaves are those of the pydantic models, so a new key is tested by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import quote, urlsplit

import pytest
import yaml
from pydantic import BaseModel
from servers.mlflow import MlflowServer
from servers.s3 import S3Server

from components.profile import Cluster
from sdpose.config import Experiment
from sdpose.config.document import parse_document
from sdpose.config.schema import Sweep
from sdpose.credentials import SECRET_VARIABLES
from sdpose.errors import UserError
from sdpose.storage import open_store
from sdpose.tools.synthetic.dataset import write_synthetic_coco

CANARY = "canary-hunter2"
ADDRESS = f"https://somebody:{CANARY}@host/x"
SCHEMAS: dict[type[BaseModel], dict[str, Any]] = {
    Experiment: {"exp_name": "x"},
    Sweep: {},
    Cluster: {
        "namespace": "pose",
        "image": "registry.example.org/x",
        "volumes": [{"claim": "c", "path": "/data"}],
        "data_root": "/data",
        "work_dirs": "/data",
    },
}
PIPELINES = Path(__file__).parent / "pipelines"

Place = tuple[str | int, ...]


def leaves(annotation: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Where a value stands in a document of this type, and a document with the canary there."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from leaves(arguments[0], place)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            for path, value in leaves(field.annotation, (*place, name)):
                yield path, {name: value}
        yield (*place, ADDRESS), {ADDRESS: 1}
    elif origin in (Union, types.UnionType):
        for one in arguments:
            if one is not type(None):
                yield from leaves(one, place)
    elif origin is dict:
        yield (*place, "a key"), {ADDRESS: "x"}
        for path, value in leaves(arguments[1], (*place, "name")):
            yield path, {"name": value}
    elif origin in (tuple, list):
        for path, value in leaves(arguments[0], (*place, 0)):
            yield path, [value]
    else:
        assert origin in (None, Literal), f"a kind of type that this test does not know: {origin}"
        yield place, ADDRESS


CASES = [
    pytest.param(model, value, id=".".join([model.__name__.lower(), *map(str, path)])[:80])
    for model in SCHEMAS
    for path, value in leaves(model)
]


def test_the_leaves_are_found() -> None:
    names = {case.id for case in CASES}
    assert len(CASES) > 150
    assert {"experiment.data_root", "cluster.env.name", "cluster.secrets.name.key"} <= names
    assert "cluster.tolerations.0.value" in names


@pytest.mark.parametrize(("model", "changes"), CASES)
def test_a_credential_in_a_leaf_is_refused_and_not_shown(
    model: type[BaseModel], changes: dict[str, Any]
) -> None:
    document = yaml.safe_dump(SCHEMAS[model] | changes)
    with pytest.raises(UserError) as refused:
        parse_document(model, document, "the file")
    message = str(refused.value)
    assert CANARY not in message
    assert "credential" in message or "unknown key" in message, message


@pytest.mark.parametrize("key", ["labels", "annotations", "node_selector", "env"])
def test_nested_values(key: str) -> None:
    for nested in ([ADDRESS], {"b": [{"c": ADDRESS}]}, {ADDRESS: 1}):
        document = SCHEMAS[Cluster] | {key: {"a": nested}}
        with pytest.raises(UserError) as refused:
            parse_document(Cluster, document, "the file")
        assert CANARY not in str(refused.value)
        assert "secrets:" in str(refused.value)


@pytest.mark.parametrize(
    "name", [*SECRET_VARIABLES, "HF_TOKEN", "DB_PASSWORD", "MY_SECRET_THING", "X_API_KEY"]
)
def test_the_profile_refuses_secret_variables(name: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_document(Cluster, SCHEMAS[Cluster] | {"env": {name: CANARY}}, "the file")
    assert f"env: {name}: a credential" in str(refused.value)
    assert f"`secrets:`, as {name}: {{name: SECRET, key: KEY}}" in str(refused.value)
    assert CANARY not in str(refused.value)
    secret = {"name": "s3-credentials", "key": name}
    parse_document(Cluster, SCHEMAS[Cluster] | {"secrets": {name: secret}}, "the file")


@pytest.mark.parametrize(
    ("key", "name", "value", "allowed"),
    [
        ("annotations", "db-password", CANARY, False),
        ("labels", "team/api-key", CANARY, False),
        ("annotations", "vault.hashicorp.com/agent-inject-token", "true", True),
        ("annotations", "vault.hashicorp.com/agent-inject-secret-s3", "internal/data/s3", True),
        ("env", "DB_PASSWORD_FILE", "/run/secrets/db", True),
        ("env", "SDPOSE_PUBLIC_KEY", "/etc/sdpose/public.pem", True),
        ("env", "HTTPS_PROXY", f"me:{CANARY}@proxy:3128", False),
        ("env", "HTTPS_PROXY", "http://proxy:3128", True),
    ],
)
def test_names_that_look_like_secrets(key: str, name: str, value: str, allowed: bool) -> None:
    document = SCHEMAS[Cluster] | {key: {name: value}}
    if allowed:
        parse_document(Cluster, document, "the file")
        return
    with pytest.raises(UserError, match="a credential in the profile") as refused:
        parse_document(Cluster, document, "the file")
    assert CANARY not in str(refused.value)


# ------------------------------------------------------------------------- what a run prints, keeps

VARIABLES = {name: f"canary-{name.lower()}/+{n}" for n, name in enumerate(SECRET_VARIABLES)}
IN_URLS = "canary-in-url"
NOBODY = "127.0.0.1:9"


def forms(secret: str) -> set[str]:
    return {secret, quote(secret), quote(secret, safe="")}


def has_no_canary(where: str, content: bytes) -> None:
    for secret in (*VARIABLES.values(), IN_URLS):
        for form in forms(secret):
            lines = [line for line in content.splitlines() if form.encode() in line]
            assert not lines, f"{form} in {where}: {lines[0][:500]!r}"


@pytest.fixture
def submit(repository: Path, tmp_path: Path) -> Callable[..., str]:
    """`submit.py ARGUMENTS` with a canary, and a line break after it, in every secret variable."""

    def run(*arguments: str, code: int, **environment: str) -> str:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KFP_", "KUBE"))}
        done = subprocess.run(
            [sys.executable, str(repository / "pipelines/submit.py"), *arguments],
            cwd=tmp_path,
            env={
                **inherited,
                "OMP_NUM_THREADS": "1",
                "MLFLOW_TRACKING_USERNAME": "somebody",
                **{name: value + "\n" for name, value in VARIABLES.items()},
                **environment,
            },
            capture_output=True,
            check=False,
            timeout=800,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said.decode()
        has_no_canary(" ".join(arguments), said)
        return said.decode()

    return run


@pytest.mark.parametrize("train_api", ["pytorchjob", "trainjob"])
def test_dry_run_for_a_cluster(submit: Callable[..., str], train_api: str, tmp_path: Path) -> None:
    """The experiment, the job's manifest and KFP's IR."""
    cluster = str(PIPELINES / "cluster.yaml")
    said = submit(
        *("--exp", "quickstart", "--cluster", cluster, "--runner", "kfp", "--dry-run"),
        *("--any-code", "--train-api", train_api),
        code=0,
    )
    assert "secretKeyRef" in said
    assert "deploymentSpec" in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for path in written:
        has_no_canary(str(path), path.read_bytes())


@pytest.fixture(scope="module")
def services(
    mlflow_server: MlflowServer, moto: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Where a run finds MLflow and a registry on S3."""
    return {
        "AWS_ENDPOINT_URL_S3": moto.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "SDPOSE_CACHE": str(tmp_path_factory.mktemp("cache")),
        "SDPOSE_REGISTRY": f"s3://{moto.new_bucket()}/registry",
        "MLFLOW_TRACKING_URI": f"http://u:{IN_URLS}@{urlsplit(mlflow_server.uri).netloc}",
    }


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "coco"
    write_synthetic_coco(folder, num_train=8, num_val=2, seed=0)
    return str(folder)


TINY = ("--exp", str(PIPELINES / "tiny.yaml"), "--set", "total_epochs=1")
TINY += ("--set", "evaluation.interval=1", "--data-root")


@pytest.mark.timeout(900)
def test_a_pipeline_on_this_machine(
    submit: Callable[..., str],
    services: dict[str, str],
    coco: str,
    mlflow_server: MlflowServer,
    moto: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data, training, MLflow, evaluation, registration and promotion: output, files, stores."""
    said = submit(*TINY, coco, "--promote", "production", code=0, **services)
    assert "model version: tiny version 1" in said
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SDPOSE_CACHE", services["SDPOSE_CACHE"])
    store = open_store(services["SDPOSE_REGISTRY"])
    keys = list(store.list(""))
    assert any(key.endswith("pointer.json") for key in keys)
    for key in keys:
        has_no_canary(key, store.read(key))
    folders = (mlflow_server.folder, Path(services["SDPOSE_CACHE"]), tmp_path)
    for path in [path for folder in folders for path in folder.rglob("*")]:
        if path.is_file():
            has_no_canary(str(path), path.read_bytes())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("MLFLOW_TRACKING_URI", f"http://u:{IN_URLS}@{NOBODY}"),
        ("AWS_ENDPOINT_URL_S3", f"http://{NOBODY}"),
    ],
)
def test_a_service_that_fails(
    submit: Callable[..., str],
    services: dict[str, str],
    coco: str,
    name: str,
    address: str,
    tmp_path: Path,
) -> None:
    assert NOBODY in submit(*TINY, coco, code=2, **services | {name: address})
    for path in tmp_path.rglob("*"):
        if path.is_file():
            has_no_canary(str(path), path.read_bytes())
