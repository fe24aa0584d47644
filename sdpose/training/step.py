"""One training step.

N samples, K joints, (H, W) image or heatmap size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sdpose.models import CycleOutput
from sdpose.training.optim import set_learning_rate


def train_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[dict[str, Tensor]],
    *,
    lr: float,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    autocast: contextlib.AbstractContextManager[None] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    is_bad: Callable[[Tensor, Tensor], Tensor] | None = None,
    skip_bad: bool = False,
) -> dict[str, Tensor]:
    """Forward, losses by name, backward (for every batch), clip, step.

    model: returns one `CycleOutput` per cycle; may be wrapped in DistributedDataParallel, which
        averages the gradients over the processes during the last batch's backward.
    batches: of equal size, each images_N3HW, targets_NKHW, target_weights_NK, sample_keys_N on the
        model's device; their gradients are averaged (accumulation).
    max_norm: gradients are scaled down to this norm; None: they are left as they are.
    autocast: a context in which the forward pass runs; the losses are computed outside of it.
    scaler: scales the loss (fp16); a step whose gradients overflow is left out.
    is_bad: judges a step by its loss and gradient norm; with skip_bad it is left out if bad.

    Returns detached scalars on the device, means over the batches: every loss, `acc_pose`, their
    total `loss`, `grad_norm` (before clipping), `bad` (0 or 1), and `skipped` (1: neither weights
    nor BatchNorm's statistics moved) where that can happen. Nothing here waits for the device;
    reading a value does (and an optimizer that can skip steps but is not fused).
    """
    set_learning_rate(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    rows: list[dict[str, Tensor]] = []
    can_skip = skip_bad or scaler is not None
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()] if can_skip else []
    for batch in batches:
        is_last = len(rows) == len(batches) - 1
        with contextlib.nullcontext() if is_last else _without_averaging(model):
            with autocast or contextlib.nullcontext():
                outputs: list[CycleOutput] = model(batch["images_N3HW"])
            losses: dict[str, Tensor] = loss(
                outputs, batch["targets_NKHW"], batch["target_weights_NK"], batch["sample_keys_N"]
            )
            total = torch.stack(tuple(losses.values())).sum()
            to_differentiate = total if len(batches) == 1 else total / len(batches)
            if scaler is not None:
                to_differentiate = scaler.scale(to_differentiate)
            to_differentiate.backward()
        with torch.no_grad():
            accuracy = pose_accuracy(
                outputs[0].heatmaps, batch["targets_NKHW"], batch["target_weights_NK"]
            )
        rows.append({**losses, "acc_pose": accuracy, "loss": total})

    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = nn.utils.get_total_norm(gradients, norm_type=norm_type)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, grad_norm)
    values = rows[0]
    if len(rows) > 1:
        values = {name: torch.stack([row[name] for row in rows]).mean() for name in values}
    values = values | {"grad_norm": grad_norm}
    skip = ~grad_norm.isfinite()
    if is_bad is not None:
        bad = is_bad(values["loss"], grad_norm)
        values["bad"] = bad.float()
        skip = skip | bad if skip_bad else skip
    if can_skip:
        step_unless(skip, optimizer)
        for buffer, before in statistics:
            buffer.copy_(torch.where(skip, before, buffer))
        values["skipped"] = skip.float()
    else:
        optimizer.step()
    if scaler is not None:
        scaler.update()
    return {name: value.detach() for name, value in values.items()}


def step_unless(skip: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """optimizer.step(), or nothing, moments and step count included, where `skip` (a bool scalar).

    A fused optimizer decides it on the device (the way of torch's GradScaler); for the others the
    host waits for the value.
    """
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif not skip.item():
        optimizer.step()


def _without_averaging(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside, a wrapped model's backward does not exchange gradients with the other processes."""
    no_sync = getattr(model, "no_sync", contextlib.nullcontext)
    return no_sync()


def pose_accuracy(
    heatmaps_NKHW: Tensor, targets_NKHW: Tensor, weights_NK: Tensor, threshold: float = 0.05
) -> Tensor:
    """Share of annotated joints whose highest pixel lies near the target's, 0..1 (a scalar).

    Near: closer than `threshold` times the heatmap's size; averaged per joint, then over the joints
    that occur, as mmpose's pose_pck_accuracy does. Unlike mmpose, which takes the last cycle but
    one, callers pass the first cycle: the one that predicts.
    """
    offset_NK2 = _peak_xy(heatmaps_NKHW) - _peak_xy(targets_NKHW)
    hit_NK = (offset_NK2.norm(dim=-1) < threshold).float()
    valid_NK = (weights_NK > 0).float()
    count_K = valid_NK.sum(0)
    share_K = (hit_NK * valid_NK).sum(0) / count_K.clamp(min=1)
    return share_K.sum() / (count_K > 0).sum().clamp(min=1)


def _peak_xy(heatmaps_NKHW: Tensor) -> Tensor:
    """The highest pixel's (x / W, y / H)."""
    height, width = heatmaps_NKHW.shape[-2:]
    index_NK = heatmaps_NKHW.flatten(2).argmax(-1)
    return torch.stack((index_NK % width / width, index_NK // width / height), -1)
