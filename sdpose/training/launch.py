"""Training on every GPU of this machine: what `torchrun` does, from Python."""

from __future__ import annotations

import uuid

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sdpose.config import Experiment, dump_experiment, parse_experiment
from sdpose.errors import USER_ERROR_EXIT_CODE, user_errors
from sdpose.training.loop import TrainResult, train


def train_on_this_machine(
    experiment: Experiment, *, overwrite: bool = False, processes: int | None = None
) -> TrainResult:
    """`train` in one process for each visible GPU; one GPU, or none, is served by this process.

    data.samples_per_gpu is the batch of one process, so the global batch grows with the GPUs.
    processes: instead of the number of GPUs.
    Raises SystemExit if a process ended with a user's error, which it has told already.
    """
    processes = processes or max(1, torch.cuda.device_count())
    if processes == 1:
        return train(experiment, overwrite=overwrite)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        results = elastic_launch(config, _train_rank)(dump_experiment(experiment), overwrite)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode == USER_ERROR_EXIT_CODE:
            raise SystemExit(USER_ERROR_EXIT_CODE) from None
        raise
    return results[0]


def _train_rank(document: str, overwrite: bool) -> TrainResult:
    with user_errors():
        return train(parse_experiment(document), overwrite=overwrite)
