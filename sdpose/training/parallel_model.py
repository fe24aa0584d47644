"""Data parallelism: averaged gradients, SyncBatchNorm, and averaged buffers."""

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
    """Wrap a model so that backward averages its gradients over the ranks.

    Args:
        model: with the same parameters and buffers on all ranks.
        world: of size 1: the model is returned unchanged.
        sync_bn: replace the BatchNorm layers of `model` itself by synchronised ones.
    """
    if world.size == 1:
        return model
    if world.device.type == "cpu":
        if sync_bn:
            convert_sync_batchnorm(model)
        return AveragedGradients(model)
    if sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Buffers are equal with SyncBatchNorm, or averaged before they are used (average_buffers). The
    # switch has a new name since torch 2.15.
    switches = inspect.signature(DistributedDataParallel).parameters
    name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in switches)
    no_sync: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=[world.device.index], **no_sync)


class AveragedGradients(nn.Module):
    """DistributedDataParallel for CPUs, with one all_reduce at the end of backward.

    DDP reduces buckets of gradients while backward still runs, which gains nothing if the same
    cores do both, and rebuilds its buckets after the first step. This changes the order of
    additions: the first step after a resume would differ in the last bit.
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
        """Accumulate gradients locally; the next backward outside averages the sum."""
        self._averaging = False
        try:
            yield
        finally:
            self._averaging = True

    def _schedule(self, _: Tensor) -> None:
        """After the first gradient: queue a callback, which runs at the end of backward."""
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
    """Average BatchNorm's running statistics over the ranks (mmcv's SyncBuffersHook).

    They are linear in the batches' statistics, so how often they are averaged affects rounding
    only. With SyncBatchNorm they are equal already.
    """
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world.size


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the values of the buffers at the end of the block."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """SyncBatchNorm for CPUs; torch's requires CUDA.

    All processes must have batches of the same size, which the loader guarantees.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NCHW)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = x_NCHW.numel() // x_NCHW.shape[1] * dist.get_world_size()
        # Two all_reduces: the mean of squares minus the squared mean would need only one, but
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
    """all_reduce(sum); its gradient is an all_reduce(sum) too."""

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
    """Replace every BatchNorm2d below `module`; parameters, buffers and names are kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            synced = SyncBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            synced.__dict__.update(
                _parameters=child._parameters, _buffers=child._buffers, training=child.training
            )
            setattr(module, name, synced)
        else:
            convert_sync_batchnorm(child)
