"""A training as one MLflow run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

from sdpose import tracking
from sdpose.config import Experiment, dump_experiment, experiment_digest, summary_values
from sdpose.outputs.metric_names import tracked_metrics, unweighted_losses
from sdpose.outputs.sink import Sink, Status
from sdpose.tracking.delivery import Delivery
from sdpose.tracking.system_metrics import SystemMonitor
from sdpose.training.events import EpochRecord, EvaluationRecord
from sdpose.training.paths import EXPERIMENT_FILE, MLFLOW_QUEUE, MLFLOW_RUN_FILE

DELIVERY_SECONDS = 600.0  # the most that the end of a run waits for an MLflow that makes progress

logger = logging.getLogger(__name__)


class MlflowSink(Sink):
    """One MLflow run for the whole training, however often it is interrupted; the step is the
    epoch.

    A new run needs MLflow for a moment, so that a wrong address is noticed at once; one that was
    begun before goes on without. Nothing else waits for MLflow, see `Delivery`.
    """

    def __init__(
        self,
        experiment: Experiment,
        work_dir: Path,
        timestamp: str,
        same_run: bool,
        dataset_digest: str,
    ) -> None:
        self._experiment = experiment
        self._work_dir, self._timestamp = work_dir, timestamp
        id_file = work_dir / MLFLOW_RUN_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else ""
        known = known if same_run else ""
        try:
            with tracking.short_timeouts() if known else contextlib.nullcontext():
                self.run_id = tracking.start_run(
                    experiment.exp_name,
                    run_id=known or None,
                    source=f"sdpose train {experiment.exp_name}",
                    description=_description(experiment),
                    dataset=tracking.Dataset(experiment.data_root, dataset_digest),
                    params=summary_values(experiment),
                    tags={
                        "experiment_digest": experiment_digest(experiment),
                        "dataset_digest": dataset_digest,
                        "work_dir": str(work_dir.absolute()),
                    },
                ).run_id
        except tracking.UnreachableError:
            if not known:
                raise
            self.run_id = known
        id_file.write_text(self.run_id + "\n", encoding="utf-8")
        self._delivery = Delivery(work_dir / MLFLOW_QUEUE)
        self._delivery.status(self.run_id, "RUNNING")  # after what an earlier start left there
        self._delivery.file(self.run_id, work_dir / EXPERIMENT_FILE)
        self._system = SystemMonitor()

    def epoch(self, record: EpochRecord) -> None:
        losses = {**record.values, **unweighted_losses(record.values, self._experiment)}
        values = {f"train/{name}": value for name, value in losses.items()}
        values |= {"learning_rate": record.lr, **self._system.take()}
        self._delivery.metrics(self.run_id, values, record.epoch)

    def evaluation(self, record: EvaluationRecord) -> None:
        metrics = tracked_metrics(record.metrics)
        if record.best_ap is not None:
            metrics["best_AP"] = record.best_ap
        self._delivery.metrics(self.run_id, metrics, record.epoch)

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        self._system.close()
        for suffix in (".log", ".log.json"):
            path = self._work_dir / (self._timestamp + suffix)
            if path.is_file():
                self._delivery.file(self.run_id, path, "logs")
        if best_checkpoint is not None and status == "FINISHED":
            self._delivery.file(self.run_id, best_checkpoint, "checkpoints")
        self._delivery.status(self.run_id, status)
        _end(self._delivery, self._work_dir, seconds)


def _description(experiment: Experiment) -> str:
    """What MLflow's page of a run says first: what sets the experiment apart."""
    differences = dump_experiment(experiment, whole=False).rstrip()
    return f"What differs from the defaults:\n\n```yaml\n{differences}\n```"


def deliver_what_waits(work_dir: Path) -> int:
    """What MLflow missed of the runs of a work dir, which nobody else may use meanwhile; returns
    how many records it has still not got."""
    if not (work_dir / MLFLOW_QUEUE).is_file():
        return 0
    return _end(Delivery(work_dir / MLFLOW_QUEUE), work_dir, DELIVERY_SECONDS)


def _end(delivery: Delivery, work_dir: Path, seconds: float) -> int:
    left = delivery.close(seconds)
    if not left:
        return 0
    records, wait = f"{left} record{'s' * (left > 1)}", "wait" if left > 1 else "waits"
    queue, deliver = work_dir / MLFLOW_QUEUE, f"`sdpose sync {work_dir}` delivers them"
    if delivery.kept_in == queue:
        where = f"{records} {wait} in {queue}; {deliver}"
    elif delivery.kept_in is not None:
        where = (
            f"{records} {wait} in {delivery.kept_in}, because {queue} cannot be written. Move the "
            f"file there when it can, and {deliver}"
        )
    else:
        where = (
            f"{records} are lost, because neither {queue} nor {tempfile.gettempdir()} can be "
            f"written; their values are in the newest .log.json of {work_dir}"
        )
    logger.warning(f"MLflow did not get everything: {where}")
    return left
