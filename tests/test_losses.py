from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdpose.config import load_experiment
from sdpose.losses import (
    JointsMSELoss,
    MaskedTokenDistilLoss,
    TokenDistilLoss,
    build_loss,
    importance_scores,
    lowest,
    random_scores,
)
from sdpose.models import CycleOutput

STRATEGIES = ("random", "importance")
strategies = st.sampled_from(STRATEGIES)
ratios = st.floats(0, 1)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 8))
seeds = st.integers(0, 2**31)
keys = st.integers(-(2**63), 2**63 - 1)


def tokens(seed: int, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(size, generator=generator, requires_grad=True)
    teacher = torch.randn(size, generator=generator, requires_grad=True)
    return student, teacher, torch.randint(-(2**62), 2**62, size[:1], generator=generator)


def mask(ratio: float, strategy: str, teacher: Tensor, sample_keys: Tensor, stream: int) -> Tensor:
    count = round(ratio * teacher.shape[1])
    if strategy == "importance":
        return lowest(importance_scores(teacher), count)
    return lowest(random_scores(sample_keys, teacher.shape[1], stream), count)


@given(seeds, sizes, ratios, strategies, st.integers(0, 5))
def test_masked_loss_is_the_mean_over_what_it_keeps(seed, size, ratio, strategy, stream) -> None:
    student, teacher, sample_keys = tokens(seed, size)
    loss = MaskedTokenDistilLoss(loss_weight=0.5, mask_ratio=ratio, mask_strategy=strategy)
    value = loss(student, teacher, sample_keys, stream=stream)
    value.backward()

    masked = mask(ratio, strategy, teacher, sample_keys, stream)
    assert (masked.sum(1) == round(ratio * size[1])).all()
    kept = ~masked
    expected = (student - teacher)[kept].square().mean() * 0.5 if kept.any() else torch.tensor(0.0)
    torch.testing.assert_close(value, expected)
    moved = student.grad.abs().sum(2) > 0
    assert torch.equal(moved, kept)
    assert torch.equal(teacher.grad, -student.grad)


@given(seeds, sizes, strategies)
def test_ratio_0_is_the_unmasked_loss_bit_for_bit(seed, size, strategy) -> None:
    results = []
    for loss in (
        TokenDistilLoss(loss_weight=1e-5),
        MaskedTokenDistilLoss(loss_weight=1e-5, mask_ratio=0, mask_strategy=strategy),
    ):
        student, teacher, sample_keys = tokens(seed, size)
        value = loss(student, teacher, sample_keys)
        value.backward()
        results.append((value, student.grad, teacher.grad))
    assert all(torch.equal(plain, masked) for plain, masked in zip(*results, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ratio_1_is_zero_with_zero_gradients(strategy: str) -> None:
    student, teacher, sample_keys = tokens(0, (3, 17, 8))
    loss = MaskedTokenDistilLoss(mask_ratio=1, mask_strategy=strategy)
    # Squares of these overflow float32.
    value = loss(student * 1e30, teacher * 1e30, sample_keys)
    value.backward()
    assert value.item() == 0
    assert not student.grad.any()
    assert not teacher.grad.any()


@given(seeds, sizes, ratios)
def test_importance_keeps_the_tokens_with_the_most_energy(seed, size, ratio) -> None:
    _, teacher, _ = tokens(seed, size)
    energy = teacher.detach().square().sum(2)
    masked = mask(ratio, "importance", teacher, torch.empty(0), 0)
    dropped = energy.masked_fill(~masked, -torch.inf).amax(1)
    kept = energy.masked_fill(masked, torch.inf).amin(1)
    assert (dropped <= kept).all()


def test_equally_important_tokens_are_masked_from_the_first_on() -> None:
    masked = mask(0.3, "importance", torch.ones(2, 10, 4), torch.empty(0), 0)
    assert masked.tolist() == [[True] * 3 + [False] * 7] * 2


def test_importance_does_not_see_the_student() -> None:
    student, teacher, sample_keys = tokens(0, (2, 20, 8))
    loss = MaskedTokenDistilLoss(mask_ratio=0.5, mask_strategy="importance", detach_teacher=True)
    loss(student, teacher, sample_keys).backward()
    assert teacher.grad is None
    kept = student.grad.abs().sum(2) > 0
    assert torch.equal(kept, ~mask(0.5, "importance", teacher, sample_keys, 0))


def test_detach_teacher_stops_one_side_only() -> None:
    gradients = {}
    for detach in (False, True):
        student, teacher, _ = tokens(1, (2, 5, 4))
        TokenDistilLoss(detach_teacher=detach)(student, teacher).backward()
        gradients[detach] = (student.grad, teacher.grad)
    assert torch.equal(gradients[True][0], gradients[False][0])
    assert gradients[True][1] is None
    assert torch.equal(gradients[False][1], -gradients[False][0])


@settings(max_examples=25)
@given(st.lists(keys, min_size=12, max_size=12, unique=True), st.integers(0, 5), ratios)
def test_masks_are_the_same_for_every_number_of_processes(sample_keys, stream, ratio) -> None:
    sample_keys = torch.tensor(sample_keys)
    count = round(ratio * 64)
    whole = lowest(random_scores(sample_keys, 64, stream), count)
    for world_size in (2, 3, 4, 12):
        shares = [
            lowest(random_scores(k, 64, stream), count) for k in sample_keys.chunk(world_size)
        ]
        assert torch.equal(torch.cat(shares), whole)


@given(keys, st.integers(0, 9))
def test_scores_are_splitmix64(key: int, stream: int) -> None:
    wrap = 2**64

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % wrap
        return z ^ (z >> 31)

    gamma = 0x9E3779B97F4A7C15
    row = mix((key % wrap) ^ (gamma * (stream + 1) % wrap))
    expected = [mix((row + (token + 1) * gamma) % wrap) for token in range(17)]
    assert [
        s % wrap for s in random_scores(torch.tensor([key]), 17, stream)[0].tolist()
    ] == expected


@pytest.mark.parametrize("spread", [1, 2**40])
def test_random_masks_are_uniform_and_independent(spread: int) -> None:
    """Even for keys that are not well mixed themselves."""
    samples, num_tokens, count = 4000, 64, 19
    p = count / num_tokens
    sample_keys = torch.arange(samples) * spread
    streams = [lowest(random_scores(sample_keys, num_tokens, s), count).double() for s in range(4)]
    five_sigma = 5 * (p * (1 - p) / samples) ** 0.5
    for masked in streams:
        assert ((masked.mean(0) - p).abs() < five_sigma).all()
        # Two tokens of a sample: drawing without replacement.
        both = masked.T @ masked / samples
        expected = p * (count - 1) / (num_tokens - 1)
        pairs = both[~torch.eye(num_tokens, dtype=torch.bool)]
        assert ((pairs - expected).abs() < 6 * (expected * (1 - expected) / samples) ** 0.5).all()
    # Different streams, and neighbouring samples, have nothing to do with each other.
    overlap = p**2
    limit = 5 * (overlap * (1 - overlap) / (samples * num_tokens)) ** 0.5
    for first in range(4):
        assert abs((streams[first][1:] * streams[first][:-1]).mean() - overlap) < limit
        for second in range(first):
            assert abs((streams[first] * streams[second]).mean() - overlap) < limit


def outputs(num_cycles: int, requires_grad: bool = False) -> list[CycleOutput]:
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, requires_grad=requires_grad)

    return [
        CycleOutput(tensor(2, 17, 8, 6), tensor(2, 12, 4), tensor(2, 17, 4))
        for _ in range(num_cycles)
    ]


def test_pose_loss_sums_over_cycles_and_adjacent_pairs() -> None:
    experiment = load_experiment(
        "maskedkd_v2",
        [
            "model.keypoint_head.loss_vis_token_dist.loss_weight=2",
            "model.keypoint_head.loss_kpt_token_dist.loss_weight=3",
        ],
    )
    head = experiment.model.keypoint_head
    targets, weights = torch.rand(2, 17, 8, 6), torch.ones(2, 17)
    weights[:, 5] = 0
    cycles, sample_keys = outputs(3), torch.tensor([5, 6])

    losses = build_loss(head)(cycles, targets, weights, sample_keys)

    heatmap = sum(JointsMSELoss()(c.heatmaps, targets, weights) for c in cycles)
    torch.testing.assert_close(losses["heatmap_loss"], heatmap)
    for key, name, weight, first_stream in (
        ("vis_dist_loss", "vision_tokens", 2.0, 0),
        ("kpt_dist_loss", "keypoint_tokens", 3.0, 1),
    ):
        masked = MaskedTokenDistilLoss(loss_weight=weight, mask_ratio=0.3)
        expected = sum(
            masked(getattr(cycles[i], name), getattr(cycles[i + 1], name), sample_keys, stream)
            for i, stream in ((0, first_stream), (1, 2 + first_stream))
        )
        torch.testing.assert_close(losses[key], expected)


def test_only_the_configured_losses_and_zero_for_a_single_cycle() -> None:
    head = load_experiment(
        "sdpose_s_v1",
        ["model.keypoint_head.loss_vis_token_dist=null"],
    ).model.keypoint_head
    losses = build_loss(head)(
        outputs(1), torch.rand(2, 17, 8, 6), torch.ones(2, 17), torch.arange(2)
    )
    assert list(losses) == ["heatmap_loss", "kpt_dist_loss"]
    assert losses["kpt_dist_loss"].item() == 0


def test_joints_mse_is_the_mean_over_joints_of_the_mean_over_batch_and_pixels() -> None:
    heatmaps, targets = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    per_joint = [
        np.mean((weights[:, j, None, None] * (heatmaps - targets)[:, j]).numpy() ** 2)
        for j in range(3)
    ]
    loss = JointsMSELoss(loss_weight=2)
    assert loss(heatmaps, targets, weights).item() == pytest.approx(2 * np.mean(per_joint))
    unweighted = JointsMSELoss(use_target_weight=False)(heatmaps, targets, weights)
    assert unweighted.item() == pytest.approx(((heatmaps - targets) ** 2).mean().item())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_never_wait_for_the_device(strategy: str) -> None:
    """Tensors on the meta device have no values: whatever reads one on the host fails."""
    student, teacher = (torch.empty(2, 17, 8, device="meta", requires_grad=True) for _ in "st")
    sample_keys = torch.empty(2, dtype=torch.int64, device="meta")
    loss = MaskedTokenDistilLoss(mask_ratio=0.3, mask_strategy=strategy)
    loss(student, teacher, sample_keys).backward()
    assert student.grad.shape == student.shape


def test_losses_of_bfloat16_predictions_are_computed_in_float32() -> None:
    student, teacher, _ = tokens(0, (4, 50, 32))
    exact = TokenDistilLoss()(student.bfloat16().float(), teacher.bfloat16().float())
    assert torch.equal(TokenDistilLoss()(student.bfloat16(), teacher.bfloat16()), exact)
