"""Registers a trained and evaluated run, and reads and writes its summary.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpose.config import Experiment, experiment_digest
from sdpose.documents import DocumentError, read_json
from sdpose.errors import UserError
from sdpose.files import write_atomically
from sdpose.registry.documents import check_metrics
from sdpose.registry.register import register_checkpoint
from sdpose.registry.signatures import signer_of
from sdpose.registry.versions import ModelVersion
from sdpose.training.paths import EXPERIMENT_FILE, run_paths

SUMMARY = "summary.json"


log = logging.getLogger(__name__)


def model_of(experiment: Experiment) -> str:
    """The model whose versions the experiment's runs are."""
    assert experiment.registry.model is not None  # the schema fills it in
    return experiment.registry.model


def register_run(
    experiment: Experiment,
    *,
    checkpoint: Path,
    trained_as: Path,
    results: Path,
    dataset_digest: str,
    mlflow_run_id: str,
    runner: str,
    git_commit: str,
) -> ModelVersion:
    """Registers an evaluated checkpoint and writes `<work_dir>/summary.json`.

    Args:
        checkpoint: the file that was evaluated.
        trained_as: its path in the work dir.
        results: what `sdpose.evaluation.write_results` wrote; the metrics are beside it.
        runner: of the pipeline, "local" or "kfp"; for the summary.
        git_commit: of the code that trained.
    """
    if experiment.skeleton is None:
        from sdpose.models.transfer import with_skeleton_of
        from sdpose.models.weights import read_checkpoint

        experiment = with_skeleton_of(experiment, checkpoint, read_checkpoint(checkpoint)[1])
    metrics = json.loads(results.with_suffix(".metrics.json").read_text(encoding="utf-8"))
    settings = metrics.pop("settings")
    version = register_checkpoint(
        model_of(experiment),
        checkpoint,
        experiment=experiment,
        dataset_digest=dataset_digest,
        metrics=metrics,
        evaluation_settings=settings,
        mlflow_run_id=mlflow_run_id or None,
        git_commit=git_commit,
        signer=signer_of(),
    )
    again = "" if version.created else ", which holds the same content already"
    log.info(f"registered as {version.model_name} version {version.version}{again}")
    write_summary(
        run_paths(experiment).work_dir,
        {
            "exp_name": experiment.exp_name,
            "runner": runner,
            "experiment_digest": experiment_digest(experiment),
            "dataset_digest": dataset_digest,
            "ap": metrics["AP"],
            "bbox_source": settings["bbox_source"],
            "metrics": metrics,
            "evaluation_settings": settings,
            "best_checkpoint": str(trained_as),
            "mlflow_run_id": mlflow_run_id,
            "model_name": version.model_name,
            "model_version": version.version,
            "registered_checkpoint": version.weights_uri,
            "git_commit": git_commit,
        },
    )
    return version


@dataclass(frozen=True)
class EvaluatedRun:
    """The evaluated checkpoint of a work dir, with its metrics and origin."""

    checkpoint: Path
    metrics: Mapping[str, float]
    evaluation_settings: Mapping[str, Any]  # empty: written by an earlier version
    dataset_digest: str
    mlflow_run_id: str | None
    git_commit: str | None


def evaluated_run(work_dir: Path) -> EvaluatedRun:
    """Reads the summary that the pipeline wrote.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    path = work_dir / SUMMARY
    if not path.is_file():
        raise UserError(
            f"{work_dir} has no {SUMMARY}: the pipeline has not evaluated this run. Evaluate it "
            f"(`sdpose test {work_dir / EXPERIMENT_FILE} CHECKPOINT --out F.json`), then register "
            "that CHECKPOINT with --metrics F.metrics.json"
        )
    summary = read_json(path)
    texts = ("best_checkpoint", "dataset_digest", "mlflow_run_id", "git_commit")
    try:
        named, digest, run_id, commit = (summary[key] for key in texts)
        settings, metrics = summary.get("evaluation_settings", {}), summary["metrics"]
        if not all(isinstance(text, str) for text in (named, digest, run_id, commit)):
            raise TypeError
        if not (isinstance(settings, dict) and isinstance(metrics, dict)):
            raise TypeError
    except (LookupError, TypeError, AttributeError):
        raise DocumentError(
            f"{path}: not what the pipeline writes there: register a checkpoint with --metrics"
        ) from None
    # The path is another one if the work dir was moved, or copied from a cluster.
    places = (Path(named), work_dir / Path(named).name)
    checkpoint = next((place for place in places[::-1] if place.is_file()), None)
    if checkpoint is None:
        raise UserError(f"{path} is about {named}, which is not there: evaluate the run again")
    metrics = check_metrics(metrics, str(path))
    return EvaluatedRun(checkpoint, metrics, settings, digest, run_id or None, commit or None)


def write_summary(work_dir: Path, summary: dict[str, Any]) -> None:
    """Replaces `<work_dir>/summary.json`, whole or not at all."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(work_dir / SUMMARY, text)


def read_summary(work_dir: Path) -> dict[str, Any]:
    return dict(json.loads((work_dir / SUMMARY).read_text(encoding="utf-8")))
