"""From a finished training and its evaluation to a model version and the work dir's summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdpose.config import Experiment, experiment_digest
from sdpose.files import write_atomically
from sdpose.registry.register import register_checkpoint
from sdpose.registry.signatures import signer_of
from sdpose.registry.versions import ModelVersion
from sdpose.training.workdir import work_dir_of

SUMMARY = "summary.json"


def model_of(experiment: Experiment) -> str:
    """The model that the experiment's runs are versions of."""
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

    checkpoint: the file that was evaluated. trained_as: its name in the work dir. results: where
    `sdpose.evaluation.write_results` wrote; the metrics lie beside it.
    """
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
    print(f"registered as {version.model_name} version {version.version}{again}")
    write_summary(
        work_dir_of(experiment),
        {
            "exp_name": experiment.exp_name,
            "runner": runner,
            "experiment_digest": experiment_digest(experiment),
            "dataset_digest": dataset_digest,
            "ap": metrics["AP"],
            "bbox_source": settings["bbox_source"],
            "metrics": metrics,
            "best_checkpoint": str(trained_as),
            "mlflow_run_id": mlflow_run_id,
            "model_name": version.model_name,
            "model_version": version.version,
            "registered_checkpoint": version.weights_uri,
            "git_commit": git_commit,
        },
    )
    return version


def write_summary(work_dir: Path, summary: dict[str, Any]) -> None:
    """Replaces `<work_dir>/summary.json`, whole or not at all."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(work_dir / SUMMARY, text)


def read_summary(work_dir: Path) -> dict[str, Any]:
    return dict(json.loads((work_dir / SUMMARY).read_text(encoding="utf-8")))
