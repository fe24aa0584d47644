"""One training step.

N samples, K joints, (H, W) image or heatmap size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdpose.models import CycleOutput
from sdpose.training.optim import set_learning_rate


def train_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    *,
    lr: float,
    max_norm: float | None = None,
    norm_type: float = 2.0,
) -> dict[str, Tensor]:
    """Forward, losses by name, backward, clip, step.

    model: returns one `CycleOutput` per cycle; may be wrapped in DistributedDataParallel, which
        averages the gradients over the processes during backward.
    batch: images_N3HW, targets_NKHW, target_weights_NK, sample_keys_N on the model's device.
    max_norm: gradients are scaled down to this norm; None: they are left as they are.

    Returns detached scalars on the device: every loss, `acc_pose`, their total `loss`, and
    `grad_norm` (before clipping). Nothing here waits for the device; reading a value does.
    """
    set_learning_rate(optimizer, lr)
    outputs: list[CycleOutput] = model(batch["images_N3HW"])
    losses: dict[str, Tensor] = loss(
        outputs, batch["targets_NKHW"], batch["target_weights_NK"], batch["sample_keys_N"]
    )
    total = torch.stack(tuple(losses.values())).sum()

    optimizer.zero_grad(set_to_none=True)
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = nn.utils.get_total_norm(gradients, norm_type=norm_type)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, grad_norm)
    optimizer.step()

    with torch.no_grad():
        accuracy = pose_accuracy(
            outputs[0].heatmaps, batch["targets_NKHW"], batch["target_weights_NK"]
        )
    values = {**losses, "acc_pose": accuracy, "loss": total, "grad_norm": grad_norm}
    return {name: value.detach() for name, value in values.items()}


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
