from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from sdpose.losses import build_loss
from sdpose.models import build_model
from sdpose.runner.train import train
from sdpose.training.step import pose_accuracy, train_step


def tiny_step_parts(make) -> tuple:
    experiment = make()
    torch.manual_seed(0)
    model = build_model(experiment.model)
    return model, build_loss(experiment.model.keypoint_head), random_batch()


def random_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "images_N3HW": torch.randn(4, 3, 64, 48, generator=generator),
        "targets_NKHW": torch.rand(4, 17, 16, 12, generator=generator),
        "target_weights_NK": (torch.rand(4, 17, generator=generator) < 0.8).float(),
        "sample_keys_N": torch.arange(4) * 7919,
    }


def test_step_is_a_plain_gradient_step(make) -> None:
    """Against the same written out by hand: gradient, its norm, the clipped SGD update."""
    model, loss, batch = tiny_step_parts(make)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    values = train_step(model, loss, optimizer, [batch], lr=0.5, max_norm=0.01)

    losses = loss(
        plain(batch["images_N3HW"]),
        batch["targets_NKHW"],
        batch["target_weights_NK"],
        batch["sample_keys_N"],
    )
    total = sum(losses.values())
    total.backward()
    parameters = list(plain.parameters())
    norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
    assert set(values) == {*losses, "acc_pose", "loss", "grad_norm"}
    assert values["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert values["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    assert norm > 0.01
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), parameters, strict=True):
            expected = theirs - 0.5 * theirs.grad * 0.01 / norm
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_without_max_norm_nothing_is_clipped(make) -> None:
    model, loss, batch = tiny_step_parts(make)
    clipped = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0) for m in (model, clipped)]
    train_step(model, loss, optimizers[0], [batch], lr=0.1)
    train_step(clipped, loss, optimizers[1], [batch], lr=0.1, max_norm=1e9)
    for left, right in zip(model.parameters(), clipped.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_run_clips_as_configured(make) -> None:
    """To next to nothing, which moves the weights no more than next to no learning rate."""
    states = []
    for name, lr, max_norm in [("clipped", 0.5, 1e-9), ("still", 1e-9, 1.0)]:
        result = train(
            make(
                f"optimizer={{type: SGD, lr: {lr}}}",
                f"optimizer_config.grad_clip.max_norm={max_norm}",
                "total_epochs=1",
                work_dir=name,
            )
        )
        states.append(torch.load(result.last_checkpoint, weights_only=True)["state_dict"])
    for name in states[0]:
        if "running" not in name:
            torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=1e-7)


def test_loss_falls_on_one_batch(make) -> None:
    model, loss, batch = tiny_step_parts(make)
    optimizer = torch.optim.Adam(model.parameters())
    curve = [
        train_step(model, loss, optimizer, [batch], lr=1e-2)["heatmap_loss"].item()
        for _ in range(15)
    ]
    assert curve[-1] < 0.6 * curve[0]


def test_pose_accuracy_by_hand() -> None:
    """Peaks 0, 1 and 4 pixels off on a 40 x 40 map: within 0.05 x 40 = 2 pixels are the first two;
    the second joint is not annotated in the second sample, the third one nowhere."""
    targets_NKHW = torch.zeros(2, 3, 40, 40)
    heatmaps_NKHW = torch.zeros(2, 3, 40, 40)
    for sample, joint, offset in [(0, 0, 0), (1, 0, 4), (0, 1, 1), (1, 1, 4), (0, 2, 4), (1, 2, 0)]:
        targets_NKHW[sample, joint, 20, 10] = 1
        heatmaps_NKHW[sample, joint, 20, 10 + offset] = 1
    weights_NK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    accuracy = pose_accuracy(heatmaps_NKHW, targets_NKHW, weights_NK)
    assert accuracy.item() == pytest.approx((0.5 + 1.0) / 2)
