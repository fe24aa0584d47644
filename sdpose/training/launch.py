"""Training on every GPU of this machine: what `torchrun` does, with the result handed back."""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sdpose.config import Experiment, dump_experiment, load_experiment
from sdpose.errors import USER_ERROR_EXIT_CODE, user_errors
from sdpose.training.distributed import is_main_process
from sdpose.training.loop import TrainResult, train


def train_on_this_machine(
    experiment: Experiment, *, overwrite: bool = False, processes: int | None = None
) -> TrainResult:
    """`train` in one process for each visible GPU; one GPU, or none, is served by this process.

    data.samples_per_gpu is the batch of one process, so the global batch grows with the GPUs.
    processes: instead of the number of GPUs.
    Raises SystemExit if a process ended with a user's error, which it has told already, or if this
    process was asked to end (128 + the signal).
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
    with tempfile.TemporaryDirectory() as folder:
        experiment_file, result_file = Path(folder, "experiment.yaml"), Path(folder, "result.json")
        experiment_file.write_text(dump_experiment(experiment), encoding="utf-8")
        # A command, not a function: that would be spawned, and spawn its own loader processes too,
        # each with an import of torch that costs seconds.
        command = ["-m", "sdpose.training.launch", str(experiment_file), str(result_file)]
        try:
            elastic_launch(config, sys.executable)(*command, *["overwrite"] * overwrite)
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            if first.exitcode == USER_ERROR_EXIT_CODE:
                raise SystemExit(USER_ERROR_EXIT_CODE) from None
            raise
        except SignalException as asked:
            raise SystemExit(128 + asked.sigval) from None
        values = json.loads(result_file.read_text(encoding="utf-8"))
    for key in ("best_checkpoint", "last_checkpoint"):
        values[key] = values[key] and Path(values[key])
    return TrainResult(**values)


def _train_one_rank(experiment_file: str, result_file: str, *overwrite: str) -> None:
    with user_errors():
        result = train(load_experiment(experiment_file), overwrite=bool(overwrite))
    if is_main_process():
        Path(result_file).write_text(json.dumps(asdict(result), default=str), encoding="utf-8")


if __name__ == "__main__":
    _train_one_rank(*sys.argv[1:])
