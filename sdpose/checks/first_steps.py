"""Trains the first steps on the dataset: loader, augmentation, losses, gradients."""

from __future__ import annotations

import itertools
import math
import time

import torch

from sdpose.checks.batch import Trial
from sdpose.checks.report import Report
from sdpose.config import Experiment
from sdpose.data.loader import build_train_loader
from sdpose.errors import UserError
from sdpose.training.optim import build_schedule


def try_steps(experiment: Experiment, steps: int, report: Report) -> None:
    """Trains new weights for some steps, in memory, and reports how the losses went.

    Photos are decoded, whatever `data.pipeline` says: the pack may not be made yet.
    """
    decoding = experiment.data.model_copy(update={"pipeline": "exact"})
    experiment = experiment.model_copy(update={"data": decoding})
    torch.manual_seed(experiment.seed)
    trial = Trial(experiment, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    loader = build_train_loader(experiment)
    schedule, size = build_schedule(experiment, len(loader)), experiment.optimizer_config
    losses: list[float] = []
    started = time.perf_counter()
    try:
        epochs = map(loader.epoch, itertools.count(1))
        batches = itertools.chain.from_iterable(epochs)
        for number in range(steps):
            group = list(itertools.islice(batches, size.cumulative_iters))
            values = trial.step(group, number, schedule(number))
            losses.append(values["loss"])
            if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                report.problem(
                    f"steps: {' and '.join(bad)} not finite in step {number + 1}",
                    "lower optimizer.lr, set optimizer_config.grad_clip.max_norm, or lengthen "
                    "lr_config.warmup_iters",
                )
                return
    except UserError as error:
        report.error("steps", error)
        return
    except torch.OutOfMemoryError:
        report.problem(
            f"steps: {experiment.data.samples_per_gpu} samples do not fit into memory",
            "a smaller data.samples_per_gpu, with as much more optimizer_config.cumulative_iters",
        )
        return
    finally:
        loader.close()
    seconds = time.perf_counter() - started
    report.fine.append(
        f"steps: {steps} on the dataset, loss {losses[0]:.4g} -> {losses[-1]:.4g}, {seconds:.1f} s"
    )
