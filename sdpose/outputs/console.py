"""What a run prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn

from sdpose.outputs.log_file import NO_ROOM
from sdpose.outputs.sink import Sink, Status
from sdpose.printable import printable
from sdpose.training.events import EpochRecord, EvaluationRecord, TrainRecord
from sdpose.training.log_lines import epoch_line, evaluation_line, train_line


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
