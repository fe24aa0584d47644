"""The result of a run, and the names of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdpose.config import Experiment
from sdpose.training.checkpoint import Checkpoint
from sdpose.training.log_lines import duration
from sdpose.training.meters import Progress
from sdpose.training.paths import LATEST, best_name, run_paths


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run."""

    best_checkpoint: Path | None  # None without evaluation.save_best
    best_metrics: dict[str, float]  # of the best epoch; without save_best of the last one
    last_checkpoint: Path
    mlflow_run_id: str | None
    epochs: int
    stopped: str = ""  # why it stopped before total_epochs
    dataset_digest: str = ""  # of the training data; "": unknown


def checkpoint_names(experiment: Experiment, progress: Progress) -> list[str]:
    """Return the names, beside latest.pth, of the checkpoint of the epoch just saved."""
    settings = experiment.checkpoint_config
    ends = progress.epoch == experiment.total_epochs or bool(progress.stopped)
    last = ends and settings.save_last
    numbered = progress.epoch % settings.interval == 0 or last
    names = [f"epoch_{progress.epoch}.pth"] * numbered
    best = best_checkpoint(experiment, progress)
    return [*names, best.name] if best and progress.best_epoch == progress.epoch else names


def result_in(experiment: Experiment, checkpoint: Checkpoint) -> TrainResult:
    """Return the result of the run whose last checkpoint this is."""
    meta = checkpoint["meta"]
    return result_of(
        experiment,
        Progress.of(meta),
        mlflow_run_id=meta.get("mlflow_run_id"),
        dataset_digest=meta.get("dataset_digest", ""),
    )


def result_of(
    experiment: Experiment,
    progress: Progress,
    *,
    mlflow_run_id: str | None,
    dataset_digest: str,
) -> TrainResult:
    folder = run_paths(experiment).checkpoints
    last = folder / f"epoch_{progress.epoch}.pth"
    return TrainResult(
        best_checkpoint=best_checkpoint(experiment, progress),
        best_metrics=progress.best_metrics or progress.metrics,
        last_checkpoint=last if last.exists() else folder / LATEST,
        mlflow_run_id=mlflow_run_id,
        epochs=progress.epoch,
        stopped=progress.stopped,
        dataset_digest=dataset_digest,
    )


def closing_line(experiment: Experiment, result: TrainResult, progress: Progress) -> str:
    best = result.best_checkpoint
    where = f" ({best})" if best else ""
    epoch = progress.best_epoch or progress.epoch
    chosen = experiment.evaluation.save_best or "AP"
    others = f", {chosen} {result.best_metrics.get(chosen, -1):.4f}" if chosen != "AP" else ""
    return (
        f"finished {result.epochs} epochs in {duration(progress.seconds)} of training: "
        f"AP {result.best_metrics['AP']:.4f}{others} at epoch {epoch}{where}"
        + (f"\nstopped early: {result.stopped}" if result.stopped else "")
    )


def best_checkpoint(experiment: Experiment, progress: Progress) -> Path | None:
    if not progress.best_epoch:
        return None
    metric = experiment.evaluation.save_best or "AP"  # null since; kept by an earlier start
    return run_paths(experiment).checkpoints / best_name(metric, progress.best_epoch)
