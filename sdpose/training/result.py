"""What a run leaves: how its checkpoints are called, and what others read of it when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs.lease import Lease
from sdpose.outputs.mlflow_sink import deliver_what_waits
from sdpose.outputs.trainjob_status import report_finished
from sdpose.training.begin import is_finished
from sdpose.training.checkpoint import Checkpoint
from sdpose.training.experiment_changes import differences
from sdpose.training.meters import Progress
from sdpose.training.paths import LATEST, checkpoint_folder, mirror_uri, work_dir_of
from sdpose.training.records import Say, duration
from sdpose.training.run import best_checkpoint, build_saver
from sdpose.training.workdir import Start, newest


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    best_checkpoint: Path | None  # None without evaluation.save_best
    best_metrics: dict[str, float]  # of the best epoch; without save_best of the last one
    last_checkpoint: Path
    mlflow_run_id: str | None
    epochs: int
    stopped: str = ""  # why it ended before total_epochs
    dataset_digest: str = ""  # of the data that the weights have seen; "": not known


def checkpoint_names(experiment: Experiment, progress: Progress) -> list[str]:
    """What the checkpoint of the epoch just saved is called beside latest.pth."""
    settings = experiment.checkpoint_config
    ends = progress.epoch == experiment.total_epochs or bool(progress.stopped)
    last = ends and settings.save_last
    numbered = progress.epoch % settings.interval == 0 or last
    names = [f"epoch_{progress.epoch}.pth"] * numbered
    best = best_checkpoint(checkpoint_folder(experiment), progress)
    return [*names, best.name] if best and progress.best_epoch == progress.epoch else names


def finished_training(experiment: Experiment) -> TrainResult:
    """What other processes that trained this experiment to its end left in its work dir.

    Raises UserError if they did not, or not in the folder that is seen from here, or if it holds
    another experiment's.
    """
    found = newest(experiment, print)
    start = Start() if found is None else Start(checkpoint=found[1], path=found[0])
    if start.checkpoint is None or not is_finished(experiment, start):
        raise UserError(
            f"{mirror_uri(experiment) or checkpoint_folder(experiment)} holds no finished training "
            f"of {experiment.exp_name}: is the volume that was trained on mounted here, too?"
        )
    if differing := differences(start.checkpoint["meta"].get("experiment", ""), experiment):
        raise UserError(
            f"{checkpoint_folder(experiment)} holds another experiment's training: "
            + "; ".join(differing[:3])
        )
    return result_in(experiment, start.checkpoint)


def complete(experiment: Experiment, start: Start, lease: Lease | None, say: Say) -> None:
    """Keeps what a finished run promised and could not keep; UserError if that fails again."""
    assert start.checkpoint is not None
    deliver_what_waits(work_dir_of(experiment), say)
    report_finished(work_dir_of(experiment))
    saver = build_saver(experiment, say, start, lease)
    try:
        saver.name(checkpoint_names(experiment, Progress.of(start.checkpoint["meta"])))
        saver.finish()
    finally:
        saver.close(0)


def result_in(experiment: Experiment, checkpoint: Checkpoint) -> TrainResult:
    """Of a run whose last checkpoint this is."""
    meta = checkpoint["meta"]
    return result_of(
        experiment,
        Progress.of(meta),
        mlflow_run_id=meta.get("mlflow_run_id"),
        dataset_digest=meta.get("dataset_digest", ""),
    )


def require_data(trained: TrainResult, dataset_digest: str) -> None:
    """UserError if the weights have seen other data than the dataset of this digest."""
    if trained.dataset_digest not in ("", dataset_digest):
        raise UserError(
            f"{trained.last_checkpoint} was trained on other data: the dataset's digest was "
            f"{trained.dataset_digest[:12]} and is {dataset_digest[:12]} now. Bring the data back, "
            "choose --work-dir DIR (or another exp_name) for a new run, or --overwrite to train "
            "again from the beginning"
        )


def result_of(
    experiment: Experiment,
    progress: Progress,
    *,
    mlflow_run_id: str | None,
    dataset_digest: str,
) -> TrainResult:
    folder = checkpoint_folder(experiment)
    last = folder / f"epoch_{progress.epoch}.pth"
    return TrainResult(
        best_checkpoint=best_checkpoint(folder, progress),
        best_metrics=progress.best_metrics or progress.metrics,
        last_checkpoint=last if last.exists() else folder / LATEST,
        mlflow_run_id=mlflow_run_id,
        epochs=progress.epoch,
        stopped=progress.stopped,
        dataset_digest=dataset_digest,
    )


def closing_line(result: TrainResult, progress: Progress) -> str:
    best = result.best_checkpoint
    where = f" ({best})" if best else ""
    epoch = progress.best_epoch or progress.epoch
    return (
        f"finished {result.epochs} epochs in {duration(progress.seconds)} of training: "
        f"AP {result.best_metrics['AP']:.4f} at epoch {epoch}{where}"
        + (f"\nstopped early: {result.stopped}" if result.stopped else "")
    )
