"""The records that the training loop emits, and the interface of their listeners.

`PrintedEvents` (log_lines.py) prints the records. Log files, TensorBoard, MLflow and progress
records are other listeners (sdpose.outputs), which the entry point attaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainRecord:
    """The steps since the last record; `values` are means over them and over the ranks."""

    epoch: int  # from 1
    iteration_in_epoch: int  # from 1
    iterations_per_epoch: int
    iteration: int  # steps done in the whole run
    lr: float
    eta: float  # seconds to the end of the run
    time: float  # seconds per step
    data_time: float  # of these, seconds waiting for the loader
    memory: int  # peak, MiB; of the GPU if there is one, else of this process
    samples_per_second: float  # all ranks
    values: Mapping[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """A complete epoch; `values` are means over its steps."""

    epoch: int
    total_epochs: int
    iteration: int
    lr: float  # of the last step
    seconds: float  # in training steps, this epoch, this process
    total_seconds: float  # in training steps, whole run, including those before a resume
    values: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationRecord:
    """The evaluation of an epoch."""

    epoch: int
    iteration: int
    bbox_source: str
    seconds: float
    metrics: Mapping[str, float]  # "AP", "AP .5", ..., see sdpose.metric_names
    best_ap: float | None  # so far; None without evaluation.save_best


class Events:
    """Base class of listeners. It ignores every event itself, as used by the ranks other than 0."""

    def say(self, text: str) -> None:
        """Show a message to the user."""

    def progress(self, iteration: int, text: str | None = None) -> None:
        """A step, or a part of an evaluation, is complete; `text` is for a progress bar."""

    def train(self, record: TrainRecord) -> None: ...
    def epoch(self, record: EpochRecord) -> None: ...
    def evaluation(self, record: EvaluationRecord) -> None: ...
