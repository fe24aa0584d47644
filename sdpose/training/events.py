"""What happens in a run, as records, and who listens.

The loop makes the records. `PrintedEvents` (log_lines.py) prints them; log files, TensorBoard,
MLflow and progress records are other listeners (sdpose.outputs), which the entry point attaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Say = Callable[[str], None]  # a line for the user


@dataclass(frozen=True)
class TrainRecord:
    """The steps since the last record; `values` are means over them and over the ranks."""

    epoch: int  # from 1
    iteration_in_epoch: int  # from 1
    iterations_per_epoch: int
    iteration: int  # steps done in the whole run
    lr: float
    eta: float  # seconds to the end of the run
    time: float  # seconds a step
    data_time: float  # of these, waiting for the loader
    memory: int  # MB; of the GPU if there is one, else of this process
    samples_per_second: float  # all ranks
    values: Mapping[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """An epoch that is complete; `values` are means over its steps."""

    epoch: int
    total_epochs: int
    iteration: int
    lr: float  # of the last step
    seconds: float  # in training steps, this epoch, this process
    total_seconds: float  # in training steps, whole run, over all starts
    values: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationRecord:
    epoch: int
    iteration: int
    bbox_source: str
    seconds: float
    metrics: Mapping[str, float]  # "AP", "AP .5", ...
    best_ap: float | None  # so far; None without evaluation.save_best


class Events:
    """Listens to a run. Every method may be left out: this one listens to nothing, as every rank
    but the first does."""

    def say(self, text: str) -> None:
        """A message for the user."""

    def progress(self, iteration: int, text: str | None = None) -> None:
        """A step is done, or a part of an evaluation; text: for a progress bar."""

    def train(self, record: TrainRecord) -> None: ...
    def epoch(self, record: EpochRecord) -> None: ...
    def evaluation(self, record: EvaluationRecord) -> None: ...
