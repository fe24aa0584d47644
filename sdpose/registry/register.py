"""From a checkpoint to a version: weights as safetensors, and a manifest."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpose import __version__, tracking
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.registry import catalogue
from sdpose.registry.description import describe
from sdpose.registry.layout import (
    MANIFEST_FORMAT,
    blob_key,
    check_model_name,
    digest_of,
    document,
    mark_key,
    mark_of,
    registry_root,
)
from sdpose.registry.signatures import Signer
from sdpose.registry.versions import ModelVersion, announce, identity_of
from sdpose.storage import Store, open_store, sha256_of_file

IMAGE_VARIABLE = "SDPOSE_IMAGE"  # of the container that this runs in, best by digest
RUN_ID_VARIABLE = "SDPOSE_RUN_ID"  # of the pipeline's run
# gc takes seconds from here to the end of a deletion; if it died in between, we go on.
PATIENCE_WITH_GC = 60.0


def warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
    say: Callable[[str], None] = warn,
) -> ModelVersion:
    """Uploads a checkpoint's weights and announces them as a version of `model_name`.

    The same content gives the same version, however often and by however many processes at once:
    the content is the weights, the dataset that they were evaluated on and the settings of the
    evaluation (the metrics follow from these three). What arrived is known to be the weights,
    and they fit the experiment's model, before the version appears.

    checkpoint: any layout that `sdpose.models.load_weights` takes. metrics: AP and the like, 0..1.
    evaluation_settings: all that changes them. git_commit: of the code that trained it, "-dirty"
    behind it if files were changed; default: of this code. root: default `registry_root()`.
    signer: signs the version, also one that was there. MLflow is told if there is one; if it does
    not answer, `say` hears of it, and `reconcile` will.
    Raises UserError if the root cannot be written, DamagedObjectError if the copy is not the file.
    """
    given = registry_root() if root is None else root
    store = open_store(given) if isinstance(given, str | Path) else given
    check_model_name(model_name)
    with tempfile.TemporaryDirectory(prefix="sdpose-register-") as folder:
        weights = Path(folder) / "weights.safetensors"
        source = _write_weights(checkpoint, experiment, weights)
        sha256, size = sha256_of_file(weights), weights.stat().st_size
        store.put_file(weights, blob_key(sha256), sha256)
        if _keep_from_gc(store, sha256):
            store.put_file(weights, blob_key(sha256), sha256)  # it may have been deleted meanwhile
        settings = dict(evaluation_settings or {})
        manifest: dict[str, Any] = {
            "format": MANIFEST_FORMAT,
            "model_name": model_name,
            "weights": {"sha256": sha256, "size": size, "format": "safetensors"},
            "dataset_digest": dataset_digest,
            "evaluation_settings": settings,
            "evaluation_settings_digest": digest_of(settings),
            "metrics": dict(metrics or {}),
            "model": describe(experiment),
            "experiment": dump_experiment(experiment),
            "experiment_digest": experiment_digest(experiment),
            "checkpoint": source,
            "parent": _parent(experiment),
            "mlflow_run_id": mlflow_run_id,
            "git": _git(tracking.git_commit() if git_commit is None else git_commit),
            "image": os.environ.get(IMAGE_VARIABLE, ""),
            "pipeline_run_id": os.environ.get(RUN_ID_VARIABLE, ""),
            "sdpose_version": __version__,
            "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        manifest["identity"] = identity_of(manifest)
        version = announce(store, model_name, manifest)
        if not store.exists(blob_key(sha256)):  # a gc that had begun before the version was there
            store.put_file(weights, blob_key(sha256), sha256)
    if signer is not None:
        signer.sign(store, version)
    if tracking.is_configured():
        with catalogue.or_later(say):
            catalogue.show(version)
    return version


def _write_weights(checkpoint: Path, experiment: Experiment, target: Path) -> dict[str, Any]:
    """Writes the tensors under our names, the same bytes for the same tensors; what the checkpoint
    is."""
    from safetensors.torch import save_file

    from sdpose.models import build_model, load_weights

    model = build_model(experiment.model, initialise=False)
    meta = load_weights(model, checkpoint).meta  # refuses what does not fit
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, target, metadata={"format": "pt"})
    return {
        "name": checkpoint.name,
        "sha256": sha256_of_file(checkpoint),
        "epoch": meta.get("epoch"),
        "iteration": meta.get("iteration"),
    }


def _parent(experiment: Experiment) -> dict[str, str | None]:
    """What the training started from."""
    return {"load_from": experiment.load_from, "resume_from": experiment.resume_from}


def _git(commit: str) -> dict[str, Any]:
    return {"commit": commit.removesuffix("-dirty"), "dirty": commit.endswith("-dirty")}


def _keep_from_gc(store: Store, sha256: str) -> bool:
    """Takes back the mark that a gc has set on a blob which nothing named; waits for one that is
    deleting it, see upkeep.py. True if there was a mark."""
    found = False
    deadline = time.monotonic() + PATIENCE_WITH_GC
    while (marked := store.read_tagged(mark_key(sha256))) is not None:
        found = True
        data, tag = marked
        deleting = b'"deleting": true' in data
        if deleting and time.monotonic() < deadline:
            time.sleep(0.2)
        elif store.swap(mark_key(sha256), document(mark_of(datetime.now(UTC))), tag):
            store.delete(mark_key(sha256))
            break
    return found
