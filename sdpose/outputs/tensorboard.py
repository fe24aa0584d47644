"""TensorBoard's event file of a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpose.config import Experiment
from sdpose.errors import UserError
from sdpose.outputs.log_file import LogFile
from sdpose.outputs.metric_names import tracked_metrics, unweighted_losses
from sdpose.outputs.sink import Sink, Status
from sdpose.training.events import EvaluationRecord, TrainRecord


class TensorboardSink(Sink):
    """An event file in `tf_logs`; the step is the iteration.

    Not torch's SummaryWriter: its thread dies at the first write that fails, with a traceback, and
    takes the queue along.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
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
        self._experiment, self._file = experiment, LogFile(folder / name)
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
