"""All that listens to a run: the console, log files, TensorBoard, MLflow, progress records.

Only rank 0 has sinks.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from sdpose import tracking
from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs.console import ConsoleSink
from sdpose.outputs.mlflow_sink import MlflowSink
from sdpose.outputs.run_progress import ProgressFile, ProgressSink, Reporter, progress_in
from sdpose.outputs.sink import Sink, Status
from sdpose.outputs.tensorboard import TensorboardSink
from sdpose.outputs.text_log import TextSink
from sdpose.outputs.trainjob_status import TrainJobStatus
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord
from sdpose.training.paths import run_paths


class RunEvents(Sink):
    """All sinks of a run; at first the console, none at all on the other ranks.

    `say` gets what the loop says, and what the parts of a run log (`log_setup.log_to`).
    """

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._said: list[str] = []

    def open(self, experiment: Experiment, *, same_run: bool, dataset_digest: str) -> str | None:
        """Adds the sinks that `log_config.hooks` names, and that of the run's progress; returns the
        MLflow run's id, if any.

        same_run: the work dir holds an earlier part of this run. What was said so far is passed on.
        """
        work_dir = run_paths(experiment).work_dir
        timestamp = time.strftime("%Y%m%d_%H%M%S")
        chosen = {hook.type for hook in experiment.log_config.hooks}
        console, *_ = self._sinks
        assert isinstance(console, ConsoleSink)
        opened: list[Sink] = []
        mlflow_run_id = None
        if "MlflowLoggerHook" in chosen:
            mlflow = MlflowSink(experiment, work_dir, timestamp, same_run, dataset_digest)
            opened.append(mlflow)
            mlflow_run_id = mlflow.run_id
            if links := tracking.links_of(mlflow_run_id):
                self.say(f"MLflow run: {links.run}")  # a log line would lose the link's query
        if "TensorboardLoggerHook" in chosen:
            opened.append(TensorboardSink(experiment, work_dir / "tf_logs"))
        if "TextLoggerHook" in chosen:
            opened.append(TextSink(experiment, work_dir, timestamp, dataset_digest))
            console.shows_figures = True
        opened.append(_progress_sink(experiment, work_dir, same_run))
        for sink in opened:
            for text in self._said:
                sink.say(text)
        self._sinks += opened
        return mlflow_run_id

    def say(self, text: str) -> None:
        self._said.append(text)
        for sink in self._sinks:
            sink.say(text)

    def log(self, text: str) -> None:
        """Says it to the log files alone."""
        for sink in self._sinks[1:]:
            sink.say(text)

    def start_bar(self, iteration: int, total_iterations: int) -> None:
        for sink in self._sinks:
            sink.start_bar(iteration, total_iterations)

    def progress(self, iteration: int, text: str | None = None) -> None:
        for sink in self._sinks:
            sink.progress(iteration, text)

    def train(self, record: TrainRecord) -> None:
        for sink in self._sinks:
            sink.train(record)

    def epoch(self, record: EpochRecord) -> None:
        for sink in self._sinks:
            sink.epoch(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        for sink in self._sinks:
            sink.evaluation(record)

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        while self._sinks[1:]:  # files are complete before MLflow takes them
            self._sinks.pop().close(status, best_checkpoint, seconds)
        for console in self._sinks:  # it stays: the last uploads may log something
            console.close(status, best_checkpoint, seconds)


def _progress_sink(experiment: Experiment, work_dir: Path, same_run: bool) -> ProgressSink:
    reporters: list[Reporter] = [ProgressFile(work_dir)]
    if (status := TrainJobStatus.from_environment()) is not None:
        reporters.append(status)
    before = None
    with contextlib.suppress(UserError):  # damaged: it is replaced
        before = progress_in(work_dir) if same_run else None
    return ProgressSink(experiment, reporters, before)
