"""The launcher: one training job, from its submission to its outcome."""

from __future__ import annotations

from pathlib import Path

from components.cluster import Cluster
from sdpose.config import Experiment
from sdpose.training.loop import TrainResult


def train_on_cluster(
    experiment: Experiment, cluster: Cluster, *, run_id: str, overwrite: bool, log: Path
) -> TrainResult:
    raise NotImplementedError("lands today")
