"""`model`: backbone, transformer, losses, and the decoding of heatmaps in evaluation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sdpose.config.schema.section import (
    Channels,
    Layers,
    NonNegativeFloat,
    Pixels,
    PositiveFloat,
    Probability,
    Section,
    Size,
    WeightsFile,
)


class Backbone(Section):
    """`StemNet` is the stem of ResNet: two strided convolutions and bottlenecks, 4 * `width`
    channels out. `HRNet_3stage` is the highest resolution of HRNet without its last stage, `width`
    channels out."""

    type: Literal["StemNet", "HRNet_3stage"] = Field(
        "StemNet", description="StemNet: SDPose-T and -S; HRNet_3stage: SDPose-B"
    )
    width: Channels | None = Field(
        None,
        description="channels of the first branch; default 64 for StemNet, 32 for HRNet",
        examples=[32],
    )
    num_blocks: Layers = Field(4, description="bottlenecks of the stem", examples=[2])

    @model_validator(mode="before")
    @classmethod
    def _default_width(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("width") is None:
            value = value | {"width": 32 if value.get("type") == "HRNet_3stage" else 64}
        return value


class KeypointLoss(Section):
    type: Literal["JointsMSELoss"] = Field(
        "JointsMSELoss", description="mean squared error of the heatmaps"
    )
    use_target_weight: bool = Field(True, description="ignore joints that are not annotated")
    loss_weight: NonNegativeFloat = Field(
        1.0, description="factor of the loss of the heatmaps", examples=[10.0]
    )


class TokenDistilLoss(Section):
    """Distillation between the tokens of each cycle and the next one; `MaskedTokenDistilLoss`
    ignores the masked tokens."""

    type: Literal["TokenDistilLoss", "MaskedTokenDistilLoss"] = Field(
        "TokenDistilLoss", description="MaskedTokenDistilLoss leaves out a share of the tokens"
    )
    loss_weight: NonNegativeFloat = Field(
        5e-6, description="factor of the loss between the cycles' tokens", examples=[1e-05]
    )
    mask_ratio: Probability | None = Field(
        None,
        description="share of every sample's tokens that is left out (masked loss; 0.3)",
        examples=[0.5],
    )
    mask_strategy: Literal["random", "importance"] | None = Field(
        None, description="which tokens are left out: random ones, or the least important"
    )
    detach_teacher: bool = Field(
        False, description="stop the gradient into the later cycle (the official code does not)"
    )

    @model_validator(mode="before")
    @classmethod
    def _masking_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        defaults = {"mask_ratio": 0.3, "mask_strategy": "random"}
        if value.get("type") == "MaskedTokenDistilLoss":
            chosen = {key: value[key] for key in defaults if value.get(key) is not None}
            return value | defaults | chosen
        unread = [key for key in defaults if value.get(key) is not None]
        if unread:
            raise ValueError(
                f"{' and '.join(unread)} would not be read by TokenDistilLoss; "
                "set type: MaskedTokenDistilLoss, or remove it (null)"
            )
        return value


class TokenPose(Section):
    """The transformer, applied `cycle_num` times with shared weights. Sizes are (height, width),
    as in the official configurations."""

    feature_size: Size = Field(
        (64, 48),
        description="backbone's output, (height, width); default: image_size / 4, swapped",
        examples=[[64, 48]],
    )
    heatmap_size: Size = Field(
        (64, 48),
        description="(height, width); default: that of data_cfg, swapped",
        examples=[[64, 48]],
    )
    patch_size: Size = Field(
        (4, 3),
        description="feature pixels, (height, width), that make one vision token",
        examples=[[2, 2]],
    )
    dim: Channels = Field(192, description="width of a token", examples=[96])
    depth: Layers = Field(12, description="transformer layers in one cycle", examples=[6])
    heads: Channels = Field(8, description="attention heads", examples=[4])
    mlp_ratio: PositiveFloat = Field(
        3, le=100, description="hidden width of the feed-forward layer / dim", examples=[4.0]
    )
    pos_embedding_type: Literal["sine-full", "sine", "learnable"] = Field(
        "sine-full",
        description="sine-full adds the position before every layer but the first as well",
    )
    cycle_num: Layers = Field(
        2, description="passes through the transformer in training", examples=[3]
    )

    @model_validator(mode="after")
    def _divisible(self) -> TokenPose:
        for axis, (feature, patch) in enumerate(
            zip(self.feature_size, self.patch_size, strict=True)
        ):
            if feature % patch:
                raise ValueError(
                    f"patch_size {list(self.patch_size)} does not divide feature_size "
                    f"{list(self.feature_size)} (axis {axis}: {feature} / {patch}): change it, or "
                    "data_cfg.image_size (width, height)"
                )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be divisible by heads {self.heads}")
        if self.pos_embedding_type != "learnable" and self.dim % 4:
            raise ValueError(f"dim {self.dim} must be divisible by 4 for a sine embedding")
        return self


class KeypointHead(Section):
    loss_keypoint: KeypointLoss = KeypointLoss()
    loss_vis_token_dist: TokenDistilLoss | None = Field(
        TokenDistilLoss(),
        description="distillation of the vision tokens; null: off",
        examples=[{"type": "MaskedTokenDistilLoss"}],
    )
    loss_kpt_token_dist: TokenDistilLoss | None = Field(
        TokenDistilLoss(),
        description="distillation of the keypoint tokens; null: off",
        examples=[{"type": "MaskedTokenDistilLoss"}],
    )
    tokenpose_cfg: TokenPose = TokenPose()


class TestCfg(Section):
    flip_test: bool = Field(True, description="average with the prediction of the mirrored crop")
    post_process: Literal["unbiased", "default"] | None = Field(
        "unbiased",
        description="unbiased: DARK; default: a quarter pixel towards the higher neighbour; "
        "null: the highest pixel",
    )
    shift_heatmap: bool = Field(
        True, description="shift the mirrored heatmap by one pixel (flip_test)"
    )
    modulate_kernel: Pixels = Field(
        11, description="width of the smoothing, heatmap pixels; odd (unbiased)", examples=[17]
    )

    @model_validator(mode="after")
    def _odd(self) -> TestCfg:
        if self.modulate_kernel % 2 == 0:
            raise ValueError(f"modulate_kernel must be odd, not {self.modulate_kernel}")
        return self


class Model(Section):
    pretrained: WeightsFile | None = Field(
        None,
        description="file with weights for the backbone (ImageNet HRNet, say)",
        examples=["hrnet_w32-36af842e.pth"],
    )
    backbone: Backbone = Backbone()
    keypoint_head: KeypointHead = KeypointHead()
    test_cfg: TestCfg = TestCfg()
