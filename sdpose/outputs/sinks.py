"""What a run tells, and to whom: the console, log files, TensorBoard, MLflow.

The loop makes records; each sink writes those that concern it. Only rank 0 has sinks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn

from sdpose import __version__
from sdpose.config import Experiment, dump_experiment, experiment_digest
from sdpose.errors import UserError
from sdpose.outputs.log_file import NO_ROOM, LogFile
from sdpose.outputs.mlflow_sink import MlflowSink
from sdpose.outputs.run_progress import ProgressFile, ProgressSink, Reporter, progress_in
from sdpose.outputs.trainjob_status import TrainJobStatus
from sdpose.printable import printable
from sdpose.training.environment import environment
from sdpose.training.log_lines import epoch_line, evaluation_line, train_line
from sdpose.training.paths import work_dir_of
from sdpose.training.records import (
    EpochRecord,
    EvaluationRecord,
    Say,
    Sink,
    Status,
    TrainRecord,
    tracked_metrics,
    unweighted_losses,
)


class Events(Sink):
    """All sinks of a run; at first the console, none at all on the other ranks."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._said: list[str] = []

    def open(self, experiment: Experiment, *, same_run: bool, dataset_digest: str) -> str | None:
        """Adds the sinks that `log_config.hooks` names, and that of the run's progress; returns the
        MLflow run's id, if any.

        same_run: the work dir holds an earlier part of this run. What was said so far is passed on.
        """
        work_dir = work_dir_of(experiment)
        timestamp = time.strftime("%Y%m%d_%H%M%S")
        chosen = {hook.type for hook in experiment.log_config.hooks}
        console, *_ = self._sinks
        assert isinstance(console, ConsoleSink)
        opened: list[Sink] = []
        mlflow_run_id = None
        if "MlflowLoggerHook" in chosen:
            mlflow = MlflowSink(
                experiment, work_dir, timestamp, same_run, dataset_digest, console.say
            )
            opened.append(mlflow)
            mlflow_run_id = mlflow.run_id
        if "TensorboardLoggerHook" in chosen:
            opened.append(TensorboardSink(experiment, work_dir / "tf_logs", console.say))
        if "TextLoggerHook" in chosen:
            opened.append(TextSink(experiment, work_dir, timestamp, dataset_digest, console.say))
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
        for sink in reversed(self._sinks):  # files are complete before MLflow takes them
            sink.close(status, best_checkpoint, seconds)
        del self._sinks[1:]  # the last uploads may have something to say


def _progress_sink(experiment: Experiment, work_dir: Path, same_run: bool) -> ProgressSink:
    reporters: list[Reporter] = [ProgressFile(work_dir)]
    if (status := TrainJobStatus.from_environment()) is not None:
        reporters.append(status)
    before = None
    with contextlib.suppress(UserError):  # damaged: it is replaced
        before = progress_in(work_dir) if same_run else None
    return ProgressSink(experiment, reporters, before)


# --------------------------------------------------------------------------------------- console


class ConsoleSink(Sink):
    """Lines on standard output; on a terminal short ones, and one bar for the whole run."""

    def __init__(self) -> None:
        self.shows_figures = False
        self._console = RichConsole(highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None

    def say(self, text: str) -> None:
        text = printable(text)  # it may name files and tensors of others
        try:
            if self._console.is_terminal:
                self._console.print(text)
            else:
                print(text, flush=True)
        except OSError as error:  # into a file, say, on a disk that is full
            if error.errno not in NO_ROOM:
                raise

    def start_bar(self, iteration: int, total_iterations: int) -> None:
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
        )
        self._bar.add_task("", total=total_iterations, completed=iteration)
        self._bar.start()

    def train(self, record: TrainRecord) -> None:
        self._show(train_line(record, short=self._console.is_terminal))

    def epoch(self, record: EpochRecord) -> None:
        self._show(epoch_line(record, short=self._console.is_terminal))

    def evaluation(self, record: EvaluationRecord) -> None:
        self._show(evaluation_line(record, short=self._console.is_terminal))

    def _show(self, text: str) -> None:
        if self.shows_figures:
            self.say(text)

    def progress(self, iteration: int, text: str | None = None) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=iteration, description=text)

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


# ------------------------------------------------------------------------------------- log files


class TextSink(Sink):
    """`<timestamp>.log`, and `<timestamp>.log.json` with one JSON object a line, as mmcv's
    TextLoggerHook writes them."""

    def __init__(
        self,
        experiment: Experiment,
        work_dir: Path,
        timestamp: str,
        dataset_digest: str,
        show: Say,
    ) -> None:
        self._log = LogFile(work_dir / f"{timestamp}.log", show)
        self._json = LogFile(work_dir / f"{timestamp}.log.json", show)
        self._write_json(
            {
                "exp_name": experiment.exp_name,
                "seed": experiment.seed,
                "experiment_digest": experiment_digest(experiment),
                "dataset_digest": dataset_digest,
                "sdpose_version": __version__,
                "environment": environment(),
            }
        )
        self._log.write(dump_experiment(experiment).encode())

    def say(self, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._log.write(f"{now} - sdpose - INFO - {text}\n".encode())

    def train(self, record: TrainRecord) -> None:
        self.say(train_line(record))
        self._write_json(
            {
                "mode": "train",
                "epoch": record.epoch,
                "iter": record.iteration_in_epoch,
                "lr": record.lr,
                "memory": record.memory,
                "data_time": round(record.data_time, 5),
                **record.values,
                "time": round(record.time, 5),
                "samples_per_second": round(record.samples_per_second, 1),
            }
        )

    def epoch(self, record: EpochRecord) -> None:
        self.say(epoch_line(record))

    def evaluation(self, record: EvaluationRecord) -> None:
        self.say(evaluation_line(record))
        self._write_json(
            {
                "mode": "val",
                "epoch": record.epoch,
                "iter": record.iteration,
                **record.metrics,
                "bbox_source": record.bbox_source,
            }
        )

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        self._log.close()
        self._json.close()

    def _write_json(self, values: Mapping[str, Any]) -> None:
        self._json.write(json.dumps(values).encode() + b"\n")


# ----------------------------------------------------------------------------------- TensorBoard


class TensorboardSink(Sink):
    """An event file in `tf_logs`; the step is the iteration.

    Not torch's SummaryWriter: its thread dies at the first write that fails, with a traceback, and
    takes the queue along.
    """

    def __init__(self, experiment: Experiment, folder: Path, say: Say) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary
        except ImportError as error:
            raise UserError(
                f"TensorBoard cannot be imported ({error}): install it (pip install tensorboard), "
                "or remove TensorboardLoggerHook from log_config.hooks"
            ) from None
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._experiment, self._file = experiment, LogFile(folder / name, say)
        self._records: Any = RecordWriter(self._file)
        self._event, self._scalar = Event, summary.scalar
        self._write(file_version="brain.Event:2")

    def train(self, record: TrainRecord) -> None:
        losses = {**record.values, **unweighted_losses(record.values, self._experiment)}
        values = {f"train/{name}": value for name, value in losses.items()}
        values |= {"learning_rate": record.lr, "samples_per_second": record.samples_per_second}
        self._add(values, record.iteration)

    def evaluation(self, record: EvaluationRecord) -> None:
        self._add(tracked_metrics(record.metrics), record.iteration)

    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        self._file.close()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._write(step=step, summary=self._scalar(name, value))

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
