"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedModel:
    """`model` holds the average, in eval mode; call `update` after every optimizer step.

    Parameters and BatchNorm's running statistics are averaged alike. The weight of the new value is
    1 - min(decay, (1 + steps) / (warm_up + steps)) (mmcv's EMAHook): without the warm-up the
    initial, random weights would dominate for 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, *, decay: float, warm_up: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._warm_up = warm_up
        ours, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        # State dicts share their tensors' memory with the models.
        self._average = [ours[name] for name in floating]
        self._current = [theirs[name] for name in floating]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Average in the current weights after `steps` previous steps, without synchronising."""
        decay = min(self._decay, (1 + steps) / (self._warm_up + steps))
        torch._foreach_lerp_(self._average, self._current, 1 - decay)
