from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Register, write_checkpoint
from servers.s3 import S3Server
from signing_keys import write_pair

from sdpose.config import Experiment, parse_experiment
from sdpose.registry.promote import promote
from sdpose.registry.register import register_checkpoint
from sdpose.registry.signatures import Signer, Verifier
from sdpose.registry.versions import ModelVersion
from sdpose.storage import Store, open_store


@pytest.fixture(autouse=True)
def nothing_of_whoever_runs_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # work_dirs/mlflow.db would be found
    for name in ("MLFLOW_TRACKING_URI", "SDPOSE_REGISTRY", "SDPOSE_APPROVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def bucket(moto: S3Server) -> str:
    return moto.new_bucket()


@pytest.fixture(scope="session")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an endpoint guarantees is found out once in a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def on_s3(moto: S3Server, bucket: str, probed: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of this test alone on a server with conditional writes."""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SDPOSE_CACHE", str(probed))
    return f"s3://{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "registry")
    return str(request.getfixturevalue("on_s3"))


@pytest.fixture
def store(root: str) -> Store:
    return open_store(root)


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    """A model of 5 MB, most of it the heatmap head."""
    small = {"depth": 1, "dim": 8, "heads": 2, "patch_size": [16, 12]}
    return parse_experiment(
        {
            "exp_name": "tiny",
            "model": {
                "backbone": {"width": 4, "num_blocks": 1},
                "keypoint_head": {"tokenpose_cfg": small},
            },
        }
    )


@pytest.fixture
def register(store: Store, experiment: Experiment, tmp_path: Path) -> Register:
    """register(seed, ap=..., ...): a version of `tiny` with the weights of that seed."""

    def call(seed: int, ap: float | None = 0.5, **changes: Any) -> ModelVersion:
        path = tmp_path / f"epoch_{seed}.pth"
        chosen = changes.get("experiment", experiment)
        if not path.exists():
            write_checkpoint(path, chosen, seed)
        arguments: dict[str, Any] = {
            "experiment": chosen,
            "dataset_digest": "d" * 64,
            "metrics": {} if ap is None else {"AP": ap},
            "evaluation_settings": {"bbox_source": "ground truth"},
            "git_commit": "abc-dirty",
            "root": store,
        }
        model = changes.pop("model", "tiny")
        return register_checkpoint(model, path, **arguments | changes)

    return call


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> Path:
    """This machine has seen nothing yet."""
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))
    for name in ("SDPOSE_PUBLIC_KEY", "SDPOSE_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def signer(keys: tuple[Path, Path]) -> Signer:
    return Signer(keys[0])


@pytest.fixture
def verifier(keys: tuple[Path, Path], cache: Path) -> Verifier:
    return Verifier(keys[1])


@pytest.fixture
def move(store: Store, signer: Signer, verifier: Verifier) -> Callable[..., Any]:
    def call(version: int, channel: str = "production") -> Any:
        record = promote(
            store, "tiny", version, channel, approver="kim", signer=signer, verifier=verifier
        )
        assert record["allowed"], record["gates"]
        return record

    return call
