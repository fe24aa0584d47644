"""`sdpose` in a process that has the imports already: `python -m sdpose` takes seconds more.

A server that has imported everything and computed nothing forks them. Forks of the test process
itself would inherit the locks of torch's threads, and wait for them for ever.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("sdpose.cli", "sdpose.runner.train", "sdpose.tools.synthetic.dataset"),
        # Imported late: by torch's optimizers (2 s of CPU), the evaluation, the console.
        *("torch._dynamo", "pycocotools.cocoeval", "rich.progress"),
    ]
)


class Forked(psutil.Process):
    """`sdpose COMMAND ...` in `folder`, its output appended to `output`; after every training step
    it sleeps for `pause` seconds.

    environment: with SPOIL=(rank, step, factor), see `spoilt`; every rank then says the sum of its
    weights after every step. With OUT_OF_MEMORY=(rank, step) that step raises torch's error. With
    SAY_SAMPLES it says the annotation ids of every step.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        output: Path,
        environment: dict[str, Any],
        pause: float = 0.0,
    ) -> None:
        arguments = (command, str(folder), str(output), environment, pause)
        self._started = _context.Process(target=_run, args=arguments)
        self._started.start()
        super().__init__(self._started.pid)

    def status(self) -> str:
        # The server, not this process, is the parent; it buries the dead at once.
        return super().status() if self._started.is_alive() else psutil.STATUS_ZOMBIE

    def is_running(self) -> bool:
        return self._started.is_alive()

    def wait(self, timeout: float | None = None) -> int | None:
        self._started.join(timeout)
        if self._started.is_alive():
            raise psutil.TimeoutExpired(timeout, self.pid)
        return self._started.exitcode


def spoilt(batches: list[dict[str, Any]], factor: float) -> list[dict[str, Any]]:
    """A step's batches whose loss is NaN (factor NaN), or about factor^2 times as high."""
    names = ["images_N3HW", *["targets_NKHW"] * math.isfinite(factor)]
    return [{**batch, **{name: batch[name] * factor for name in names}} for batch in batches]


def _run(
    command: list[str], folder: str, output: str, environment: dict[str, Any], pause: float
) -> None:
    import torch

    from sdpose.cli import main
    from sdpose.training import loop

    train_step = loop.train_step
    rank, spoil, steps = environment.get("RANK", 0), environment.get("SPOIL"), itertools.count(1)

    def train_step_and_sleep(
        model: Any, loss: Any, optimizer: Any, batches: Any, **options: Any
    ) -> Any:
        step = next(steps)
        if environment.get("OUT_OF_MEMORY") == (rank, step):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if spoil and spoil[:2] == (rank, step):
            batches = spoilt(batches, spoil[2])
        if "SAY_SAMPLES" in environment:
            ids = [one for batch in batches for one in batch["sample_ids_N"].tolist()]
            print(f"samples of step {step} on rank {rank}: {ids}")
        values = train_step(model, loss, optimizer, batches, **options)
        if spoil:
            weights = sum(p.double().sum().item() for p in model.parameters())
            print(f"weights after step {step} on rank {rank}: {weights!r}")
        time.sleep(pause)
        return values

    loop.train_step = train_step_and_sleep

    code: Any = 70
    # Its loader processes start as those of `python -m sdpose` do, not from a server of their own.
    multiprocessing.set_start_method("fork", force=True)
    # Nor do they share the folder of this one's temporary files.
    multiprocessing.current_process()._config.pop("tempdir", None)
    tempfile.tempdir = None
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ |= {name: str(value) for name, value in environment.items()}
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = (
            open(standard, "w", buffering=1, closefd=False)  # noqa: SIM115
            for standard in (1, 2)
        )
        sys.argv = ["sdpose", *command]
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
