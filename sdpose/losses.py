"""The training losses: on heatmaps, and between the tokens of adjacent cycles.

Shapes: N batch, K keypoints, H W heatmap, T tokens, D token width.
Losses are computed in float32 or wider, also from bfloat16 predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sdpose.config.schema import KeypointHead
from sdpose.config.schema import TokenDistilLoss as TokenDistilCfg


class CycleOutput(Protocol):
    """The part of one cycle's output that the losses read."""

    @property
    def heatmaps(self) -> Tensor: ...
    @property
    def vision_tokens(self) -> Tensor: ...
    @property
    def keypoint_tokens(self) -> Tensor: ...


class JointsMSELoss(nn.Module):
    """Mean over joints of the mean over batch and pixels of (weight * (prediction - target))^2.

    Without a factor 0.5, and with ignored joints counted in the mean, as in mmpose's JointsMSELoss.
    """

    def __init__(self, *, use_target_weight: bool = True, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.use_target_weight = use_target_weight
        self.loss_weight = loss_weight

    def forward(
        self, heatmaps_NKHW: Tensor, targets_NKHW: Tensor, target_weights_NK: Tensor
    ) -> Tensor:
        """Compute the scalar loss; `target_weights_NK` is 1 for annotated joints, else 0."""
        error_NKHW = heatmaps_NKHW - targets_NKHW
        if self.use_target_weight:
            error_NKHW = error_NKHW * target_weights_NK[:, :, None, None]
        return error_NKHW.square().mean() * self.loss_weight


class TokenDistilLoss(nn.Module):
    """Mean squared difference between a cycle's tokens (student) and the next cycle's (teacher).

    `detach_teacher` stops the gradient at the teacher; the official code does not.
    """

    def __init__(self, *, loss_weight: float = 1.0, detach_teacher: bool = False) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.detach_teacher = detach_teacher

    def forward(
        self,
        student_NTD: Tensor,
        teacher_NTD: Tensor,
        sample_keys_N: Tensor | None = None,
        stream: int = 0,
    ) -> Tensor:
        """Compute the scalar loss; only `MaskedTokenDistilLoss` uses the last two arguments."""
        return self._squared_error(student_NTD, teacher_NTD).mean() * self.loss_weight

    def _squared_error(self, student_NTD: Tensor, teacher_NTD: Tensor) -> Tensor:
        if self.detach_teacher:
            teacher_NTD = teacher_NTD.detach()
        dtype = torch.promote_types(student_NTD.dtype, torch.float32)
        return (student_NTD.to(dtype) - teacher_NTD.to(dtype)).square()


class MaskedTokenDistilLoss(TokenDistilLoss):
    """`TokenDistilLoss` as the mean over the tokens that are not masked.

    Shapes are static, and nothing synchronises with the device.

    Args:
        mask_ratio: 0..1; round(mask_ratio * T) of a sample's T tokens are masked (Python's `round`,
            halves to even). 0 equals `TokenDistilLoss` bit for bit; 1 gives 0 and zero gradients.
        mask_strategy: which tokens are masked. "random": a new choice for each sample, epoch and
            pair of cycles (`random_scores`); "importance": the least important ones
            (`importance_scores`).
    """

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        mask_ratio: float = 0.3,
        mask_strategy: Literal["random", "importance"] = "random",
        detach_teacher: bool = False,
    ) -> None:
        super().__init__(loss_weight=loss_weight, detach_teacher=detach_teacher)
        self.mask_ratio = mask_ratio
        self.mask_strategy = mask_strategy

    def forward(
        self,
        student_NTD: Tensor,
        teacher_NTD: Tensor,
        sample_keys_N: Tensor | None = None,
        stream: int = 0,
    ) -> Tensor:
        """Compute the scalar loss; `sample_keys_N` and `stream` are those of `random_scores`."""
        num_tokens = teacher_NTD.shape[1]
        num_masked = round(self.mask_ratio * num_tokens)
        masked_NT = self.masked(teacher_NTD, sample_keys_N, stream)
        error_NTD = self._squared_error(student_NTD, teacher_NTD)
        error_NTD = error_NTD.masked_fill(masked_NT[:, :, None], 0.0)
        # From the mean over all tokens to the mean over the kept ones; exactly 1 if none is masked.
        scale = num_tokens / max(num_tokens - num_masked, 1)
        return error_NTD.mean() * scale * self.loss_weight

    def masked(self, teacher_NTD: Tensor, sample_keys_N: Tensor | None, stream: int) -> Tensor:
        """Select the tokens that the loss ignores: bool [N, T], arguments as in `forward`."""
        num_tokens = teacher_NTD.shape[1]
        if self.mask_strategy == "importance":
            scores_NT = importance_scores(teacher_NTD)
        else:
            assert sample_keys_N is not None, "random masking needs the samples' keys"
            scores_NT = random_scores(sample_keys_N, num_tokens, stream)
        return lowest(scores_NT, round(self.mask_ratio * num_tokens))


def lowest(scores_NT: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest scores of each row: bool [N, T]. Of equal scores the first win."""
    order_NT = scores_NT.argsort(dim=1, stable=True)
    masked_NT = torch.zeros_like(scores_NT, dtype=torch.bool)
    return masked_NT.scatter(1, order_NT[:, :count], True)


def importance_scores(teacher_NTD: Tensor) -> Tensor:
    """Score the importance of the teacher's tokens by their energy, the sum of squares: [N, T].

    It depends on the sample's own tokens only, so it is the same on any number of processes. The
    sine position embedding does not bias it, because its norm is the same at every position.

    Source: the activation-based attention map of Zagoruyko & Komodakis (ICLR 2017), on tokens.
    """
    return teacher_NTD.detach().float().square().sum(dim=2)


def random_scores(sample_keys_N: Tensor, num_tokens: int, stream: int) -> Tensor:
    """Draw int64 scores [N, T] as a pure function of key, stream and token index.

    Without generator state a sample has the same mask in any batch, in any process, and after
    resuming.

    Args:
        sample_keys_N: int64, one key for each sample and epoch (`data.randomness.sample_keys`).
        num_tokens: T.
        stream: scores of different streams are independent; each kind of token and each pair of
            cycles has its own.
    Source:
        SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), applied to the key with the stream mixed in,
        then to that plus the token's counter.
    """
    stream_key = _signed(_GOLDEN_GAMMA * (stream + 1))
    row_keys_N1 = _mix(sample_keys_N ^ stream_key)[:, None]
    counters_T = torch.arange(1, num_tokens + 1, device=sample_keys_N.device)
    return _mix(row_keys_N1 + counters_T * _signed(_GOLDEN_GAMMA))


_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    """Reinterpret the lowest 64 bits of `value` as an int64."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors, whose products wrap around."""
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; `>>` on int64 extends the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


LOSSES: dict[str, Any] = {
    "JointsMSELoss": JointsMSELoss,
    "TokenDistilLoss": TokenDistilLoss,
    "MaskedTokenDistilLoss": MaskedTokenDistilLoss,
}


class PoseLoss(nn.Module):
    """All losses of a training step, summed (not averaged) over cycles or pairs of cycles.

    `keypoint` is for the heatmaps of every cycle, the others for the tokens of adjacent cycles.
    """

    def __init__(
        self,
        *,
        keypoint: JointsMSELoss,
        vision_tokens: TokenDistilLoss | None,
        keypoint_tokens: TokenDistilLoss | None,
    ) -> None:
        super().__init__()
        self.keypoint = keypoint
        self.vision_tokens = vision_tokens
        self.keypoint_tokens = keypoint_tokens

    def forward(
        self,
        outputs: Sequence[CycleOutput],
        targets_NKHW: Tensor,
        target_weights_NK: Tensor,
        sample_keys_N: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch; the training loss is their sum.

        Args:
            outputs: one entry per cycle.
            targets_NKHW: heatmaps in 0..1.
            target_weights_NK: 1 for annotated joints, else 0.
            sample_keys_N: int64, see `random_scores`.
        Returns:
            Weighted scalars: `heatmap_loss`; where configured `vis_dist_loss`, `kpt_dist_loss`.
        """
        losses = {
            "heatmap_loss": _total(
                self.keypoint(cycle.heatmaps, targets_NKHW, target_weights_NK) for cycle in outputs
            )
        }
        # Each pair of cycles and each kind of token has its own random stream for masking.
        if self.vision_tokens is not None:
            losses["vis_dist_loss"] = _between_cycles(
                self.vision_tokens, [cycle.vision_tokens for cycle in outputs], sample_keys_N, 0
            )
        if self.keypoint_tokens is not None:
            losses["kpt_dist_loss"] = _between_cycles(
                self.keypoint_tokens, [cycle.keypoint_tokens for cycle in outputs], sample_keys_N, 1
            )
        return losses


def _between_cycles(
    loss: TokenDistilLoss, tokens: list[Tensor], sample_keys_N: Tensor, first_stream: int
) -> Tensor:
    """Sum over adjacent cycles, the later one as the teacher; 0 for a single cycle."""
    if len(tokens) == 1:
        return tokens[0].new_zeros(())
    return _total(
        loss(tokens[pair], tokens[pair + 1], sample_keys_N, stream=2 * pair + first_stream)
        for pair in range(len(tokens) - 1)
    )


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(terms)).sum()


def build_loss(config: KeypointHead) -> PoseLoss:
    """Build the losses of an experiment from its `model.keypoint_head`."""
    keypoint = config.loss_keypoint
    return PoseLoss(
        keypoint=LOSSES[keypoint.type](
            use_target_weight=keypoint.use_target_weight, loss_weight=keypoint.loss_weight
        ),
        vision_tokens=_token_loss(config.loss_vis_token_dist),
        keypoint_tokens=_token_loss(config.loss_kpt_token_dist),
    )


def _token_loss(config: TokenDistilCfg | None) -> TokenDistilLoss | None:
    if config is None:
        return None
    masking = {"mask_ratio": config.mask_ratio, "mask_strategy": config.mask_strategy}
    return LOSSES[config.type](
        loss_weight=config.loss_weight,
        detach_teacher=config.detach_teacher,
        # None for a loss without masking; the schema fills in the defaults for the others.
        **{key: value for key, value in masking.items() if value is not None},
    )
