"""A place that a run's records go to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sdpose.training.events import Events

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Sink(Events):
    """A listener that begins and ends with the run."""

    def start_bar(self, iteration: int, total_iterations: int) -> None: ...
    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None:
        """Ends; what is still under way gets `seconds` at most."""
