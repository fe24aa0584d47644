"""Reads the metrics of a training from the `<timestamp>.log.json` files of its work dir."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdpose.documents import parse_json

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One value over the run; x is in epochs."""

    epochs: Array
    values: Array

    def __len__(self) -> int:
        return len(self.epochs)


@dataclass
class History:
    """Rows as mmcv's TextLoggerHook writes them; of a step that was trained again after an
    interruption, the last."""

    header: dict[str, Any] = field(default_factory=dict)  # of the last start
    starts: int = 0
    iterations_per_epoch: int = 0
    train: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def series(self, name: str) -> Series:
        """A value of the training rows."""
        rows = [row for row in self.train if _is_number(row.get(name))]
        steps = max(self.iterations_per_epoch, 1)
        return Series(
            np.array([row["epoch"] - 1 + row["iter"] / steps for row in rows], np.float64),
            np.array([row[name] for row in rows], np.float64),
        )

    def evaluation(self, name: str) -> Series:
        """A figure of the evaluations."""
        rows = [row for row in self.evaluations if _is_number(row.get(name))]
        return Series(
            np.array([row["epoch"] for row in rows], np.float64),
            np.array([row[name] for row in rows], np.float64),
        )


def read_history(work_dir: Path) -> History:
    """All starts of the run, oldest first. Without log files it is empty."""
    history = History()
    train: dict[tuple[int, int], dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    for path in sorted(work_dir.glob("????????_??????.log.json")):
        for row in _rows(path):
            mode, epoch, iteration = row.get("mode"), row.get("epoch"), row.get("iter")
            if mode == "train" and isinstance(epoch, int) and isinstance(iteration, int):
                train[epoch, iteration] = row
            elif (
                mode == "val" and isinstance(epoch, int) and isinstance(row.get("AP"), int | float)
            ):
                evaluations[epoch] = row
            elif "exp_name" in row:
                history.header = row
                history.starts += 1
    history.train = [train[key] for key in sorted(train)]
    history.evaluations = [evaluations[key] for key in sorted(evaluations)]
    history.iterations_per_epoch = max((iteration for _, iteration in train), default=0)
    return history


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = parse_json(line, path.name)
            except ValueError:  # the last line of a run that was killed, or a damaged one
                continue
            if isinstance(row, dict):
                yield row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
