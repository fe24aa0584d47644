"""What other processes read of a training that is over."""

from __future__ import annotations

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs.lease import Lease
from sdpose.outputs.mlflow_sink import deliver_what_waits
from sdpose.outputs.saver import open_saver
from sdpose.outputs.trainjob_status import report_finished
from sdpose.runner.experiment_changes import differences
from sdpose.runner.work_dir import newest
from sdpose.training.meters import Progress
from sdpose.training.paths import run_paths
from sdpose.training.result import TrainResult, checkpoint_names, result_in
from sdpose.training.resume import Start, is_finished


def finished_training(experiment: Experiment) -> TrainResult:
    """What other processes that trained this experiment to its end left in its work dir.

    Raises UserError if they did not, or not in the folder that is seen from here, or if it holds
    another experiment's.
    """
    paths = run_paths(experiment)
    found = newest(experiment)
    start = Start() if found is None else Start(checkpoint=found[1], path=found[0])
    if start.checkpoint is None or not is_finished(experiment, start):
        raise UserError(
            f"{paths.mirror or paths.checkpoints} holds no finished training "
            f"of {experiment.exp_name}: is the volume that was trained on mounted here, too?"
        )
    if differing := differences(start.checkpoint["meta"].get("experiment", ""), experiment):
        raise UserError(
            f"{paths.checkpoints} holds another experiment's training: " + "; ".join(differing[:3])
        )
    return result_in(experiment, start.checkpoint)


def complete(experiment: Experiment, start: Start, lease: Lease | None) -> None:
    """Keeps what a finished run promised and could not keep; UserError if that fails again."""
    assert start.checkpoint is not None
    work_dir = run_paths(experiment).work_dir
    deliver_what_waits(work_dir)
    report_finished(work_dir)
    saver = open_saver(experiment, start, lease)
    try:
        saver.name(checkpoint_names(experiment, Progress.of(start.checkpoint["meta"])))
        saver.finish()
    finally:
        saver.close(0)


def require_data(trained: TrainResult, dataset_digest: str) -> None:
    """UserError if the weights have seen other data than the dataset of this digest."""
    if trained.dataset_digest not in ("", dataset_digest):
        raise UserError(
            f"{trained.last_checkpoint} was trained on other data: the dataset's digest was "
            f"{trained.dataset_digest[:12]} and is {dataset_digest[:12]} now. Bring the data back, "
            "choose --work-dir DIR (or another exp_name) for a new run, or --overwrite to train "
            "again from the beginning"
        )
