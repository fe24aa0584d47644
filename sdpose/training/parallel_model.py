"""One model in several processes: averaged gradients, SyncBatchNorm, and equal buffers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdpose.training.distributed import World


def distribute(model: nn.Module, world: World, *, sync_bn: bool) -> nn.Module:
    """The model as the training step calls it: its gradients are averaged during backward.

    `model` itself is changed to share BatchNorm over the ranks, if sync_bn. All ranks must have the
    same parameters and buffers.
    """
    if world.size == 1:
        return model
    if world.device.type == "cpu":
        if sync_bn:
            convert_sync_batchnorm(model)
        return AveragedGradients(model)
    if sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Buffers are equal by SyncBatchNorm, or averaged when they are read (average_buffers). The
    # switch has a new name since torch 2.15.
    switches = inspect.signature(DistributedDataParallel).parameters
    name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in switches)
    no_sync: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=[world.device.index], **no_sync)


class AveragedGradients(nn.Module):
    """What DistributedDataParallel does, in one all_reduce at the end of backward, for CPU.

    DDP sends groups of gradients while backward still runs, which gains nothing where the same
    cores do both, and regroups them after its first step. That changes the order of additions: the
    first step after a resume would differ in the last bit.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._scheduled = False
        self._averaging = True
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self._schedule)

    def forward(self, images_N3HW: Tensor) -> Any:
        return self.module(images_N3HW)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay this process's own; those of the next backward outside are added and
        averaged together."""
        self._averaging = False
        try:
            yield
        finally:
            self._averaging = True

    def _schedule(self, _: Tensor) -> None:
        """After the first gradient: what is queued now runs when backward is through."""
        if self._averaging and not self._scheduled:
            self._scheduled = True
            torch.autograd.Variable._execution_engine.queue_callback(self._average)

    def _average(self) -> None:
        self._scheduled = False
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def average_buffers(model: nn.Module, world: World) -> None:
    """Makes BatchNorm's running statistics the mean over ranks (mmcv's SyncBuffersHook).

    They are linear in the batches' statistics, so averaging now and then changes nothing but
    rounding. With SyncBatchNorm they are equal already.
    """
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world.size


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Gives the buffers their values back at the end of the block."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, for CPU: torch's own needs CUDA.

    Every process must have a batch of the same size, which the loader guarantees.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = x_NCHW.numel() // x_NCHW.shape[1] * dist.get_world_size()
        # Two sums, one after the other: the mean of squares less the squared mean, in one go,
        # cancels in float32 where the mean is large.
        mean_C = _SumOverRanks.apply(x_NCHW.sum((0, 2, 3))) / count
        centred_NCHW = x_NCHW - mean_C[:, None, None]
        variance_C = _SumOverRanks.apply(centred_NCHW.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        return centred_NCHW * scale_C[:, None, None] + self.bias[:, None, None]


class _SumOverRanks(torch.autograd.Function):
    """all_reduce(sum). Every rank's input adds to every rank's output, so does the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def convert_sync_batchnorm(module: nn.Module) -> None:
    """Replaces every BatchNorm2d below `module`; parameters, buffers and names stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            synced = SyncBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            synced.__dict__.update(
                _parameters=child._parameters, _buffers=child._buffers, training=child.training
            )
            setattr(module, name, synced)
        else:
            convert_sync_batchnorm(child)
