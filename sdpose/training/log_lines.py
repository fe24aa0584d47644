"""Format the records of a run as lines of text: full ones for logs, short ones for a terminal.

Full lines are mmcv's with figures appended. Short ones fit into 80 columns; the progress bar below
them shows the speed and the remaining time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sdpose.training.events import EpochRecord, EvaluationRecord, Events, TrainRecord


def duration(seconds: float) -> str:
    """Format seconds as mmcv does: `1 day, 2:03:04`."""
    return str(timedelta(seconds=int(seconds)))


def train_line(record: TrainRecord, *, short: bool = False) -> str:
    place = f"Epoch [{record.epoch}][{record.iteration_in_epoch}/{record.iterations_per_epoch}]"
    if short:
        return f"{place}  {_values(record.values, short=True)}, lr: {record.lr:.1e}"
    wait = 100 * record.data_time / record.time if record.time else 0.0
    return (
        f"{place}\tlr: {record.lr:.3e}, eta: {duration(record.eta)}, time: {record.time:.3f}, "
        f"data_time: {record.data_time:.3f}, memory: {record.memory}, {_values(record.values)}, "
        f"{record.samples_per_second:.1f} samples/s, {wait:.0f} % waiting for data"
    )


def epoch_line(record: EpochRecord, *, short: bool = False) -> str:
    return (
        f"Epoch [{record.epoch}/{record.total_epochs}] complete"
        + _gap(short)
        + f"{_values(record.values, short=short)}, {duration(record.seconds)}"
        + f"; {duration(record.total_seconds)} in all" * (not short)
    )


def evaluation_line(record: EvaluationRecord, *, short: bool = False) -> str:
    names = [name for name in record.metrics if not short or name in ("AP", "AR")]
    return (
        f"Epoch(val) [{record.epoch}]"
        + _gap(short)
        + ", ".join(f"{name}: {record.metrics[name]:.4f}" for name in names)
        + f" (boxes: {record.bbox_source}; {duration(record.seconds)})"
    )


def _gap(short: bool) -> str:
    return "  " if short else "\t"


def _values(values: Mapping[str, float], *, short: bool = False) -> str:
    """`short` shows only the total loss and the accuracy."""
    names = [name for name in ("loss", "acc_pose") if name in values] if short else list(values)
    return ", ".join(f"{name}: {values[name]:.4g}" for name in names)


class PrintedEvents(Events):
    """Print messages and records, one line each."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    def train(self, record: TrainRecord) -> None:
        self.say(train_line(record))

    def epoch(self, record: EpochRecord) -> None:
        self.say(epoch_line(record))

    def evaluation(self, record: EvaluationRecord) -> None:
        self.say(evaluation_line(record))
