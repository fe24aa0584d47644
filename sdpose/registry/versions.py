"""Versions of a model: a checkpoint under its SHA-256 and one immutable manifest.

    <root>/blobs/sha256/<hex>                  the checkpoint's bytes
    <root>/models/<name>/versions/<n>.json     what they are: manifest of version n = 1, 2, ...

The version number is the registry's own. MLflow shows the version as a model version of its own,
under the tag `sdpose.registry_version`. In a fresh set-up the two numbers are equal; MLflow counts
by itself though (another server, a deleted version, two registrations at once), so its number is a
link and never a name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpose import __version__, tracking
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.errors import UserError
from sdpose.storage import DamagedObjectError, Store, open_store, sha256_of_file

ROOT_VARIABLE = "SDPOSE_REGISTRY"
DEFAULT_ROOT = "work_dirs/registry"
VERSION_TAG = "sdpose.registry_version"
IDENTITY_TAG = "sdpose.identity"
MANIFEST_FORMAT = "sdpose-model-version/1"


@dataclass(frozen=True)
class ModelVersion:
    """`version` counts from 1 in each model; `created` is False if the same content was there."""

    model_name: str
    version: int
    manifest: dict[str, Any]
    manifest_uri: str
    checkpoint_uri: str
    created: bool = False

    @property
    def sha256(self) -> str:
        return str(self.manifest["checkpoint"]["sha256"])


def registry_root() -> str:
    """$SDPOSE_REGISTRY, else `work_dirs/registry` below the current folder."""
    return os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT


def register_checkpoint(
    model_name: str,
    checkpoint: Path,
    *,
    experiment: Experiment,
    dataset_digest: str,
    metrics: Mapping[str, float],
    evaluation_settings: Mapping[str, Any],
    mlflow_run_id: str | None = None,
    git_commit: str = "",
    root: str | Path | None = None,
) -> ModelVersion:
    """Copies a checkpoint into the registry and announces it as a version of `model_name`.

    The same content gives the same version, however often and by however many processes at once:
    the content is the checkpoint's bytes, the dataset that it was evaluated on and the settings of
    the evaluation (the metrics follow from these three). The copy is read back and compared before
    the version appears.

    metrics: AP and the like, 0..1. evaluation_settings: all that changes them. git_commit: of the
    code that trained it. mlflow_run_id: of the training; without one MLflow is not told. root: a
    folder, default `registry_root()`.
    Raises UserError if the root cannot be written or MLflow does not answer (the version is there
    then, and registering again completes it), DamagedObjectError if the copy is not the file.
    """
    version = _store(
        open_store(root or registry_root()),
        model_name,
        checkpoint,
        {
            "dataset_digest": dataset_digest,
            "evaluation_settings": dict(evaluation_settings),
        },
        {
            "metrics": dict(metrics),
            "checkpoint_name": checkpoint.name,
            "experiment": dump_experiment(experiment),
            "experiment_digest": experiment_digest(experiment),
            "mlflow_run_id": mlflow_run_id,
            "git_commit": git_commit,
        },
    )
    if mlflow_run_id:
        _show_in_mlflow(version, mlflow_run_id)
    return version


def _store(
    store: Store,
    model_name: str,
    checkpoint: Path,
    identifying: dict[str, Any],
    descriptive: dict[str, Any],
) -> ModelVersion:
    """The version with this checkpoint and `identifying` content, made if it is not there."""
    sha256 = sha256_of_file(checkpoint)
    content = {
        "checkpoint": {"sha256": sha256, "size": checkpoint.stat().st_size},
        **identifying,
    }
    identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    store.put_file(checkpoint, _blob_key(sha256), sha256)

    highest = 0
    for known in _versions(store, model_name):
        if known.manifest["identity"] == identity:
            return known
        highest = known.version
    manifest = {
        "format": MANIFEST_FORMAT,
        "model_name": model_name,
        "identity": identity,
        **content,
        **descriptive,
        "sdpose_version": __version__,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Every writer tries the next free number and looks at whoever was faster: nobody can pass by
    # a version with the same content, and no lock has to be trusted.
    number = highest + 1
    while not store.put_if_absent(
        _manifest_key(model_name, number),
        (json.dumps(manifest | {"version": number}, indent=2, ensure_ascii=False) + "\n").encode(),
    ):
        taken = _read(store, model_name, number)
        if taken.manifest["identity"] == identity:
            return taken
        number += 1
    return _read(store, model_name, number, created=True)


def _show_in_mlflow(version: ModelVersion, run_id: str) -> None:
    identity = version.manifest["identity"]  # the number may be another's, of a registry before
    if tracking.find_model_version(version.model_name, IDENTITY_TAG, identity) is not None:
        return
    source = version.checkpoint_uri
    if source.startswith("file:") and tracking.tracking_uri().startswith("http"):
        # A server refuses files of another machine; the training has sent it the same bytes.
        source = f"runs:/{run_id}/checkpoints/{version.manifest['checkpoint_name']}"
    tracking.create_model_version(
        version.model_name,
        source,
        run_id,
        {
            VERSION_TAG: str(version.version),
            IDENTITY_TAG: identity,
            "sdpose.manifest": version.manifest_uri,
            "sdpose.sha256": version.sha256,
            "AP": f"{version.manifest['metrics']['AP']:.4f}",
        },
    )


def list_versions(model_name: str, root: str | Path | None = None) -> list[ModelVersion]:
    """All versions of a model, oldest first."""
    return list(_versions(open_store(root or registry_root()), model_name))


def read_version(model_name: str, version: int, root: str | Path | None = None) -> ModelVersion:
    """One version; UserError naming those that exist if it does not."""
    store = open_store(root or registry_root())
    if not store.exists(_manifest_key(model_name, version)):
        numbers = [str(known.version) for known in _versions(store, model_name)]
        there = f"versions {', '.join(numbers)}" if numbers else "no versions of it"
        raise UserError(
            f"{model_name} version {version} is not in {store.uri('')}: there are {there}"
        )
    return _read(store, model_name, version)


def verify_version(model_name: str, version: int, root: str | Path | None = None) -> ModelVersion:
    """Reads every byte of a version's checkpoint; DamagedObjectError if one differs."""
    known = read_version(model_name, version, root)
    store = open_store(root or registry_root())
    key = _blob_key(known.sha256)
    if not store.exists(key):
        raise DamagedObjectError(f"{known.checkpoint_uri} is missing")
    stored = store.digest(key)
    if stored != known.sha256:
        raise DamagedObjectError(
            f"{known.checkpoint_uri} has SHA-256 {stored}, its manifest says {known.sha256}"
        )
    return known


def _versions(store: Store, model_name: str) -> Iterator[ModelVersion]:
    numbers = sorted(int(Path(key).stem) for key in store.list(f"models/{model_name}/versions"))
    for number in numbers:
        yield _read(store, model_name, number)


def _read(store: Store, model_name: str, version: int, *, created: bool = False) -> ModelVersion:
    key = _manifest_key(model_name, version)
    manifest = json.loads(store.read(key))
    return ModelVersion(
        model_name=model_name,
        version=version,
        manifest=manifest,
        manifest_uri=store.uri(key),
        checkpoint_uri=store.uri(_blob_key(manifest["checkpoint"]["sha256"])),
        created=created,
    )


def _blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256}"


def _manifest_key(model_name: str, version: int) -> str:
    return f"models/{model_name}/versions/{version}.json"
