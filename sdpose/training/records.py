"""What a run tells of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from sdpose.config import Experiment

Status = Literal["FINISHED", "FAILED", "KILLED"]
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


class Sink:
    """Every method may be left out."""

    def say(self, text: str) -> None: ...
    def start_bar(self, iteration: int, total_iterations: int) -> None: ...
    def progress(self, iteration: int, text: str | None = None) -> None: ...
    def train(self, record: TrainRecord) -> None: ...
    def epoch(self, record: EpochRecord) -> None: ...
    def evaluation(self, record: EvaluationRecord) -> None: ...
    def close(self, status: Status, best_checkpoint: Path | None, seconds: float) -> None: ...


def unweighted_losses(values: Mapping[str, float], experiment: Experiment) -> dict[str, float]:
    """The distillation losses as if their loss_weight were 1: with the usual 1e-5 their curves
    cannot be read. A loss whose weight is 0 is left out: it is 0 whatever the tokens are."""
    head = experiment.model.keypoint_head
    losses = {"vis_dist_loss": head.loss_vis_token_dist, "kpt_dist_loss": head.loss_kpt_token_dist}
    return {
        f"{name}_unweighted": values[name] / loss.loss_weight
        for name, loss in losses.items()
        if loss is not None and loss.loss_weight and name in values
    }


def duration(seconds: float) -> str:
    """`1 day, 2:03:04`, as mmcv prints it."""
    return str(timedelta(seconds=int(seconds)))


def tracked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """COCO's names without the characters that MLflow refuses.

    >>> tracked_metrics({"AP": 0.5, "AP .75": 0.25, "AR (M)": 0.0})
    {'val/AP': 0.5, 'val/AP_75': 0.25, 'val/AR_M': 0.0}
    """
    short = {" .5": "_50", " .75": "_75", " (": "_", ")": ""}
    tracked = {}
    for name, value in metrics.items():
        for part, replacement in short.items():
            name = re.sub(re.escape(part) + r"(?!\d)", replacement, name)
        tracked[f"val/{name}"] = value
    return tracked
