"""Registers a checkpoint as a version: weights as safetensors, and a manifest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpose import __version__, tracking
from sdpose.code_version import git_commit as commit_of_this_code
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.errors import UserError
from sdpose.files import sha256_of_file
from sdpose.registry import mlflow_mirror
from sdpose.registry.documents import (
    MANIFEST_FORMAT,
    NewManifest,
    check_metrics,
    digest_of,
    new_document,
)
from sdpose.registry.gc_marks import unmark
from sdpose.registry.layout import blob_key, check_model_name, registry_root
from sdpose.registry.model_description import describe
from sdpose.registry.signatures import SignatureError, Signer
from sdpose.registry.versions import ModelVersion, create_version, digests_of
from sdpose.storage import Store, open_store

IMAGE_VARIABLE = "SDPOSE_IMAGE"  # of the container that this runs in, best by digest
RUN_ID_VARIABLE = "SDPOSE_RUN_ID"  # of the pipeline's run

# The fields of a manifest that a signature covers, apart from weights and data.
SIGNED_FOR = ("metrics", "experiment", "model")


def register_checkpoint(
    model_name: str,
    checkpoint: Path,
    *,
    experiment: Experiment,
    dataset_digest: str = "",
    metrics: Mapping[str, float] | None = None,
    evaluation_settings: Mapping[str, Any] | None = None,
    mlflow_run_id: str | None = None,
    git_commit: str | None = None,
    root: str | Path | Store | None = None,
    signer: Signer | None = None,
) -> ModelVersion:
    """Uploads a checkpoint's weights and creates a version of `model_name`.

    The same content is the same version, however often and by however many processes it is
    registered: the content is the weights, the dataset of the evaluation and its settings (the
    metrics follow from these). The version appears after the uploaded weights were verified. If
    MLflow is configured it gets the version; if it does not answer, a warning is logged, and
    `reconcile` repairs it later.

    Args:
        checkpoint: any layout that `sdpose.models.load_weights` reads.
        metrics: AP and others, 0..1 (-1: nothing to count).
        evaluation_settings: everything that changes the metrics.
        git_commit: of the code that trained it, with "-dirty" if files were changed; default: of
            this code.
        root: the registry; default `registry_root()`.
        signer: signs the version, also an existing one with the same metrics and experiment.
    Raises:
        UserError: the root cannot be written, the weights do not fit the experiment's model, or the
            checkpoint was trained on another dataset.
        SignatureError: the existing version has other metrics or another experiment.
        DamagedObjectError: the upload differs from the file.
    """
    given = registry_root() if root is None else root
    store = open_store(given) if isinstance(given, str | Path) else given
    check_model_name(model_name)
    metrics = check_metrics(dict(metrics or {}), f"the metrics of {checkpoint}")
    with tempfile.TemporaryDirectory(prefix="sdpose-register-") as folder:
        weights = Path(folder) / "weights.safetensors"
        meta = _write_weights(checkpoint, experiment, weights)
        _check_data(checkpoint, meta, dataset_digest)
        sha256, size = sha256_of_file(weights), weights.stat().st_size
        manifest: dict[str, Any] = {
            "format": MANIFEST_FORMAT,
            "model_name": model_name,
            "weights": {"sha256": sha256, "size": size, "format": "safetensors"},
            "dataset_digest": dataset_digest,
            "evaluation_settings": dict(evaluation_settings or {}),
            "metrics": metrics,
            "model": describe(experiment),
            "experiment": dump_experiment(experiment),
            "experiment_digest": experiment_digest(experiment),
            "checkpoint": {
                "name": checkpoint.name,
                "sha256": sha256_of_file(checkpoint),
                "epoch": meta.get("epoch"),
                "iteration": meta.get("iteration"),
            },
            "parent": _parent(experiment),
            "mlflow_run_id": mlflow_run_id,
            "git": _git(commit_of_this_code() if git_commit is None else git_commit),
            "image": os.environ.get(IMAGE_VARIABLE, ""),
            "pipeline_run_id": os.environ.get(RUN_ID_VARIABLE, ""),
            "sdpose_version": __version__,
            "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        manifest |= digests_of(manifest)
        new_document(NewManifest, manifest | {"version": 1})  # before anything is uploaded
        store.put_file(weights, blob_key(sha256), sha256)
        if unmark(store, sha256):
            store.put_file(weights, blob_key(sha256), sha256)  # it may have been deleted meanwhile
        version = create_version(store, model_name, manifest)
        # Again: a gc that read the documents before the version existed may be removing the
        # weights now, or may have removed them.
        unmark(store, sha256)
        if not store.exists(blob_key(sha256)):
            store.put_file(weights, blob_key(sha256), sha256)
    if signer is not None and not signer.has_signed(store, version):
        _refuse_others_words(version, manifest)
        signer.sign(store, version)
    if tracking.is_configured():
        with mlflow_mirror.tolerate_outage():
            mlflow_mirror.mirror_version(version)
    return version


def _refuse_others_words(version: ModelVersion, manifest: dict[str, Any]) -> None:
    """Raises SignatureError if the existing version with this content has other metrics or another
    experiment, which a signature would cover."""
    different = [
        key for key in SIGNED_FOR if digest_of(version.manifest[key]) != digest_of(manifest[key])
    ]
    if different:
        name = f"{version.model_name}@{version.version}"
        raise SignatureError(
            f"{name} holds the same weights, and was registered with another "
            f"{' and another '.join(different)}; it was not signed. If `sdpose registry show "
            f"{name}` is right, `sdpose registry sign {name}` signs it"
        )


def _write_weights(checkpoint: Path, experiment: Experiment, target: Path) -> dict[str, Any]:
    """Writes the tensors under our names; the same tensors give the same bytes.

    Returns:
        The checkpoint's metadata.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from sdpose.models import build_model, load_weights
    from sdpose.models.transfer import check_skeleton

    model = build_model(experiment.model, experiment.keypoints.num_keypoints, initialise=False)
    meta = load_weights(model, checkpoint).meta  # refuses what does not fit
    check_skeleton(checkpoint, meta, experiment.keypoints)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(state, target, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        size = sum(tensor.nbytes for tensor in state.values()) / 1e6
        raise UserError(
            f"cannot write the weights to {target.parent}: {error}; set TMPDIR to a folder with "
            f"{size:.0f} MB of room"
        ) from None
    return meta


def _check_data(checkpoint: Path, meta: dict[str, Any], dataset_digest: str) -> None:
    """Raises UserError if the checkpoint was trained on another dataset."""
    trained_on = meta.get("dataset_digest") or dataset_digest
    if dataset_digest and trained_on != dataset_digest:
        raise UserError(
            f"{checkpoint} was trained on the dataset {str(trained_on)[:12]}, and would be "
            f"registered under the dataset {dataset_digest[:12]}: train and evaluate on one "
            "dataset, and register with its digest (`sdpose prepare` prints it)"
        )


def _parent(experiment: Experiment) -> dict[str, str | None]:
    """What the training started from."""
    return {"load_from": experiment.load_from, "resume_from": experiment.resume_from}


def _git(commit: str) -> dict[str, Any]:
    return {"commit": commit.removesuffix("-dirty"), "dirty": commit.endswith("-dirty")}
