"""Detect bad steps: values that are not finite, and losses far above the usual.

Steps are judged on the device. The host reads the verdict at the next log line (meters.py), where
bad steps are reported and `on_divergence` decides (recovery.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdpose.errors import UserError
from sdpose.training.distributed import World, mean_over_ranks

# The usual loss is a running mean: over all steps at first, later over about this many.
MEAN_STEPS = 50
# This many bad steps in a row mean that training has diverged.
BAD_STEPS_IN_A_ROW = 10


class LossWatch:
    """Judge steps by the usual loss, which stays on the device: the host does not wait.

    The cost is a dozen scalar operations per step and, with several processes, an all_reduce of one
    number behind the gradients' (asynchronous on a GPU, blocking with gloo).
    """

    def __init__(self, world: World, spike_factor: float) -> None:
        """spike_factor: a loss above this many times the usual one is a spike."""
        self._world, self._spike_factor = world, spike_factor
        self.state = torch.zeros(2, device=world.device)  # the usual loss, steps seen
        self.bad_in_a_row = 0  # steps, as of the last log line

    def is_bad(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Judge a step and update the usual loss.

        Returns:
            Bool scalar, the same on all ranks: loss or gradient is not finite, or the loss is a
            spike. Nothing is a spike in the first `BAD_STEPS_IN_A_ROW` steps.
        """
        loss = mean_over_ranks(loss.detach().float(), self._world)
        usual, steps = self.state
        ceiling = torch.where(steps < BAD_STEPS_IN_A_ROW, math.inf, self._spike_factor * usual)
        # The mean slowly follows a loss that stays high, and ignores one that is not finite.
        share = 1 / (steps + 1).clamp(max=MEAN_STEPS)
        finite = loss.isfinite() & grad_norm.isfinite()
        moved = torch.stack((usual + share * (torch.minimum(loss, ceiling) - usual), steps + 1))
        self.state = torch.where(finite, moved, self.state)
        return ~finite | (loss > ceiling)


@dataclass(frozen=True)
class BadStep:
    """A bad step and its samples, for the log."""

    epoch: int  # from 1
    iteration: int  # from 1, in the epoch
    step: int  # from 1, in the run
    lr: float
    values: dict[str, float]
    samples: Sequence[int]  # annotation ids, all ranks

    @property
    def what(self) -> str:
        if all(map(math.isfinite, self.values.values())):
            return "a loss spike"
        if math.isfinite(self.values["loss"]):
            return "gradients that overflow (with amp: fp16, now and then is normal)"
        return "a loss that is not finite"

    def __str__(self) -> str:
        return (
            f"{self.what} in epoch {self.epoch}, iteration {self.iteration} "
            f"(step {self.step} of the run): "
            + ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
            + f"\n  learning rate: {self.lr:.4g}\n  samples (annotation ids): "
            + ", ".join(map(str, self.samples))
        )


class DivergedError(UserError):
    """Training does not recover by itself."""

    def __init__(self, step: BadStep) -> None:
        self.step = step
        super().__init__(
            f"training diverged: {step}"
            "\n  Nothing was saved since; the checkpoints before are intact. Lower optimizer.lr, "
            "set optimizer_config.grad_clip.max_norm,\n  lengthen lr_config.warmup_iters, or set "
            "on_divergence to skip_step or rollback; then go on with --resume-from auto."
        )
