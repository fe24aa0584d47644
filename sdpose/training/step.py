"""One training step.

N samples, K joints, H x W pixels of an image or heatmap.
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
    """Run forward, losses and backward for each batch, clip the gradients, and step the optimizer.

    Nothing synchronises with the device, except an optimizer that may skip steps but is not fused.

    Args:
        model: returns one `CycleOutput` per cycle; may be wrapped in DistributedDataParallel, which
            averages the gradients over the processes during the last batch's backward.
        loss: returns scalars by name (`losses.PoseLoss`).
        batches: of equal size, on the model's device: images_N3HW, targets_NKHW, target_weights_NK,
            sample_keys_N. Their gradients are averaged (accumulation).
        lr: learning rate of this step.
        max_norm: gradients are scaled down to this norm; None: no clipping.
        norm_type: p of the gradients' p-norm.
        autocast: context of the forward pass; the losses are computed outside of it.
        scaler: scales the loss (fp16); a step whose gradients overflow is skipped.
        is_bad: judges a step by its loss and gradient norm.
        skip_bad: skip the steps that are bad.
    Returns:
        Detached scalars on the device, means over the batches: every loss, their sum `loss`,
        `acc_pose` (0..1), `grad_norm` (before clipping); with is_bad `bad` (0 or 1); where steps
        can be skipped `skipped` (1: neither weights nor BatchNorm statistics changed).
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
    """Step the optimizer unless `skip`, a bool scalar; moments and step count are skipped too.

    A fused optimizer decides on the device, as with torch's GradScaler; for the others the host
    waits for the value.
    """
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif not skip.item():
        optimizer.step()


def _without_averaging(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """A context in which the backward of a wrapped model does not average gradients over ranks."""
    no_sync = getattr(model, "no_sync", contextlib.nullcontext)
    return no_sync()


def pose_accuracy(
    heatmaps_NKHW: Tensor, targets_NKHW: Tensor, weights_NK: Tensor, threshold: float = 0.05
) -> Tensor:
    """Compute the share of annotated joints whose highest pixel is near the target's, 0..1.

    As in mmpose's pose_pck_accuracy, it is averaged per joint, then over the joints that occur.
    mmpose passes the last cycle but one; callers here pass the first cycle, the one that predicts.

    Args:
        weights_NK: > 0 for annotated joints.
        threshold: near means closer than this share of the heatmap's size.
    """
    offset_NK2 = _peak_xy(heatmaps_NKHW) - _peak_xy(targets_NKHW)
    hit_NK = (offset_NK2.norm(dim=-1) < threshold).float()
    valid_NK = (weights_NK > 0).float()
    count_K = valid_NK.sum(0)
    share_K = (hit_NK * valid_NK).sum(0) / count_K.clamp(min=1)
    return share_K.sum() / (count_K > 0).sum().clamp(min=1)


def _peak_xy(heatmaps_NKHW: Tensor) -> Tensor:
    """(x / W, y / H) of the highest pixel."""
    height, width = heatmaps_NKHW.shape[-2:]
    index_NK = heatmaps_NKHW.flatten(2).argmax(-1)
    return torch.stack((index_NK % width / width, index_NK // width / height), -1)
