"""Optimizers, and the learning rate as a pure function of the iteration.

A resumed run needs no scheduler state, and its learning rate cannot drift from that of an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sdpose.config.schema import Experiment
from sdpose.config.schema import Optimizer as OptimizerSettings

Schedule = Callable[[int], float]


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Build Adam, AdamW or SGD with one parameter group, as mmcv does without paramwise_cfg.

    The weight decay of Adam is the L2 term in the gradient; that of AdamW is decoupled. `fused`
    selects torch's fused kernels.
    """
    common: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "fused": fused or None,
    }
    if settings.type == "SGD":
        sgd = torch.optim.SGD(parameters, momentum=settings.momentum, **common)
        if fused and settings.momentum:
            # torch leaves the buffers uninitialised if the first fused step is skipped.
            for parameter in sgd.param_groups[0]["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    adam = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[settings.type]
    return adam(parameters, betas=settings.betas, **common)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's moments from its state dict, and keep its current settings.

    Weight decay, betas and `fused` are those of this experiment and device, which may differ from
    those of the saved state.
    """
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({**state, "param_groups": settings})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_schedule(experiment: Experiment, iterations_per_epoch: int) -> Schedule:
    """Return the function from iteration, counted from 0 over the whole run, to learning rate."""
    settings = experiment.lr_config
    lr = experiment.optimizer.lr
    warmup_iters = settings.warmup_iters if settings.warmup == "linear" else 0

    def schedule(iteration: int) -> float:
        if settings.policy == "step":
            epoch = iteration // iterations_per_epoch
            regular = step_lr(lr, epoch, steps=settings.step, gamma=settings.gamma)
        else:
            progress = iteration / (iterations_per_epoch * experiment.total_epochs)
            regular = cosine_lr(lr, progress, min_lr_ratio=settings.min_lr_ratio)
        return regular * warmup_factor(
            iteration, warmup_iters=warmup_iters, warmup_ratio=settings.warmup_ratio
        )

    return schedule


def step_lr(lr: float, epoch: int, *, steps: Sequence[int], gamma: float) -> float:
    """Return lr * gamma^(steps reached), epochs counted from 0 (mmcv's StepLrUpdaterHook by epoch).

    Step 200 therefore takes effect in the 201st epoch:

    >>> [step_lr(1.0, epoch, steps=[200, 260], gamma=0.5) for epoch in (199, 200, 260)]
    [1.0, 0.5, 0.25]
    """
    return lr * gamma ** sum(step <= epoch for step in steps)


def cosine_lr(lr: float, progress: float, *, min_lr_ratio: float) -> float:
    """Follow half a cosine from lr at progress 0 to lr * min_lr_ratio at progress 1.

    mmcv's CosineAnnealingLrUpdaterHook with by_epoch=False: progress counts iterations.
    """
    low = lr * min_lr_ratio
    return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * progress))


def warmup_factor(iteration: int, *, warmup_iters: int, warmup_ratio: float) -> float:
    """Return the factor of the regular learning rate of an iteration (mmcv's LrUpdaterHook).

    It is linear, from warmup_ratio at iteration 0 to 1 at warmup_iters.
    """
    if iteration >= warmup_iters:
        return 1.0
    return 1 - (1 - iteration / warmup_iters) * (1 - warmup_ratio)
