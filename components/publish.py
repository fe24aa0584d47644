"""What a training step hands on: its best checkpoint, as KFP's artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdpose.code_version import git_commit
from sdpose.files import sha256_of_file
from sdpose.runner.finished import require_data
from sdpose.training.checkpoint import same_file
from sdpose.training.result import TrainResult


def publish_checkpoint(
    checkpoint: Any, trained: TrainResult, dataset_digest: str
) -> tuple[str, str]:
    """Puts the best checkpoint into the artifact's folder, under its own name.

    Args:
        checkpoint: the step's output, a dsl.Model.
        dataset_digest: of the dataset that was checked.
    Returns:
        MLflow's run ("" if there is none), and the SHA-256 of the checkpoint's file.
    Raises:
        UserError: the training has seen other data.
    """
    require_data(trained, dataset_digest)
    best = trained.best_checkpoint or trained.last_checkpoint
    folder = Path(checkpoint.path)
    folder.mkdir(parents=True)
    same_file(best, folder / best.name)
    checkpoint.metadata.update(trained.best_metrics)
    checkpoint.metadata.update(file=best.name, work_dir_path=str(best.absolute()))
    checkpoint.metadata.update(dataset_digest=dataset_digest, git_commit=git_commit())
    return (trained.mlflow_run_id or "", sha256_of_file(best))
