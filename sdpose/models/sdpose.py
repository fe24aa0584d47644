"""SDPose (Chen et al., CVPR 2024, arXiv 2404.03518): one transformer, applied several times.

Shapes: N batch, 3HW image, C backbone channels, P vision tokens (patches), K keypoints,
T = K + P tokens (keypoints first), D token width, A heads, h w heatmap.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdpose.models.hrnet import HRNet3Stage
from sdpose.models.layers import HeatmapHead, TransformerLayer, patches, sine_position_embedding
from sdpose.models.stemnet import StemNet

PositionEmbedding = Literal["sine-full", "sine", "learnable"]


class CycleOutput(NamedTuple):
    """The output of one cycle, that is one pass through the transformer."""

    heatmaps: Tensor
    """(N, K, h, w), no activation; the target is a Gaussian of height 1."""
    vision_tokens: Tensor
    """(N, P, D), the residual stream: no final norm."""
    keypoint_tokens: Tensor
    """(N, K, D), likewise."""
    attention: Tensor | None = None
    """(N, A, T, T) of the last layer, where it was asked for; rows sum to 1."""


class SDPose(nn.Module):
    """Backbone, tokens, `cycle_num` passes through one transformer, shared heatmap head.

    Args:
        num_keypoints: K; one token each.
        backbone: maps images to a feature map; has `out_channels`.
        feature_size: (height, width) of the feature map; (64, 48) for 256x192 images.
        heatmap_size: (height, width).
        patch_size: (height, width) in feature-map pixels of the patch behind one vision token.
        dim: token width D.
        depth: transformer layers.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers / dim.
        pos_embedding_type: "learnable" and "sine" are added once, to the input of the first cycle
            (the learnable one also to the keypoint tokens); "sine-full" is also added before every
            layer but the first, in every cycle. Sine embeddings are on vision tokens only.
        cycle_num: passes through the transformer in training; inference needs only the first.
        initialise: see `build_model`.
    """

    position_embedding: Tensor

    def __init__(
        self,
        *,
        num_keypoints: int = 17,
        backbone: StemNet,
        feature_size: tuple[int, int] = (64, 48),
        heatmap_size: tuple[int, int] = (64, 48),
        patch_size: tuple[int, int],
        dim: int = 192,
        depth: int,
        heads: int = 8,
        mlp_ratio: float = 3,
        pos_embedding_type: PositionEmbedding = "sine-full",
        cycle_num: int,
        initialise: bool = True,
    ) -> None:
        super().__init__()
        rows, columns = feature_size[0] // patch_size[0], feature_size[1] // patch_size[1]
        self.num_keypoints = num_keypoints
        self.patch_size = patch_size
        self.pos_embedding_type = pos_embedding_type
        self.cycle_num = cycle_num
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, num_keypoints, dim))
        if pos_embedding_type == "learnable":
            self.position_embedding = nn.Parameter(
                torch.zeros(1, num_keypoints + rows * columns, dim)
            )
        else:
            # Arithmetic on the meta device would import torch.compile, 2 s for each loaded model.
            with torch.device("cpu"):
                embedding_1PD = sine_position_embedding(rows, columns, dim)
            self.register_buffer("position_embedding", embedding_1PD.to(torch.get_default_device()))
        self.backbone = backbone
        patch_dim = backbone.out_channels * patch_size[0] * patch_size[1]
        self.patch_embedding = nn.Linear(patch_dim, dim)
        self.layers = nn.ModuleList(
            TransformerLayer(dim=dim, heads=heads, mlp_dim=round(dim * mlp_ratio))
            for _ in range(depth)
        )
        self.heatmap_head = HeatmapHead(dim=dim, heatmap_size=heatmap_size)
        if initialise:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw from the official distributions: N(0, 0.001) in the backbone, N(0, 0.02) else."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.reset_parameters()
        nn.init.trunc_normal_(self.keypoint_tokens, std=0.02)
        if self.pos_embedding_type == "learnable":
            nn.init.trunc_normal_(self.position_embedding, std=0.02)

    def forward(self, images_N3HW: Tensor, return_attention: bool = False) -> list[CycleOutput]:
        """Run all cycles (for autocast in eval mode see `_precision`).

        Args:
            images_N3HW: normalised RGB.
            return_attention: also compute the attention map of each cycle's last layer.
        Returns:
            One output per cycle, the first cycle first.
        """
        with self._precision(images_N3HW.device.type):
            return self._cycles(images_N3HW, return_attention)

    def predict(self, images_N3HW: Tensor) -> Tensor:
        """Compute the heatmaps [N, K, h, w] of the first cycle, and no further cycle."""
        with self._precision(images_N3HW.device.type):
            tokens_NTD, _ = self._cycle(self._tokens(images_N3HW), return_attention=False)
            return self.heatmap_head(tokens_NTD[:, : self.num_keypoints])

    def _precision(self, device: str) -> AbstractContextManager[object]:
        """In eval mode, replace bfloat16 autocast by float16 on a GPU and by float32 on a CPU.

        The 8 bits of bfloat16 move the highest heatmap pixel of 0 to 4 % of the joints (reference
        weights, real crops), the 11 bits of float16 that of 0 to 0.3 %, at the same speed on a GPU.
        Only gradients need the range of bfloat16. CPUs are slower in float16 than in float32.
        """
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if self.training or not autocast or torch.get_autocast_dtype(device) != torch.bfloat16:
            return nullcontext()
        if device == "cpu":
            return torch.autocast(device, enabled=False)
        # The cache of cast weights ignores the dtype: it could return bfloat16 weights.
        return torch.autocast(device, dtype=torch.float16, cache_enabled=False)

    def _cycles(self, images_N3HW: Tensor, return_attention: bool) -> list[CycleOutput]:
        tokens_NTD = self._tokens(images_N3HW)
        outputs = []
        for _ in range(self.cycle_num):
            tokens_NTD, attention = self._cycle(tokens_NTD, return_attention)
            keypoint_tokens_NKD = tokens_NTD[:, : self.num_keypoints]
            outputs.append(
                CycleOutput(
                    heatmaps=self.heatmap_head(keypoint_tokens_NKD),
                    vision_tokens=tokens_NTD[:, self.num_keypoints :],
                    keypoint_tokens=keypoint_tokens_NKD,
                    attention=attention,
                )
            )
        return outputs

    def _tokens(self, images_N3HW: Tensor) -> Tensor:
        """The input of the first cycle: keypoint tokens, then vision tokens with positions."""
        # The images may have been cast in advance of autocast; on a CPU `_precision` disables
        # autocast, so they are cast back.
        features_NCHW = self.backbone(images_N3HW.to(self.keypoint_tokens.dtype))
        vision_NPD = self.patch_embedding(patches(features_NCHW, self.patch_size))
        keypoints_NKD = self.keypoint_tokens.expand(vision_NPD.shape[0], -1, -1)
        if self.pos_embedding_type == "learnable":
            return torch.cat((keypoints_NKD, vision_NPD), dim=1) + self.position_embedding
        return torch.cat((keypoints_NKD, vision_NPD + self.position_embedding), dim=1)

    def _cycle(self, x_NTD: Tensor, return_attention: bool) -> tuple[Tensor, Tensor | None]:
        # Zeros at the keypoint tokens: one addition instead of a split and a concatenation.
        positions_1TD = F.pad(self.position_embedding, (0, 0, self.num_keypoints, 0))
        attention_NATT = None
        for index, layer in enumerate(self.layers):
            if index > 0 and self.pos_embedding_type == "sine-full":
                x_NTD = x_NTD + positions_1TD
            if return_attention and index == len(self.layers) - 1:
                assert isinstance(layer, TransformerLayer)
                attention_NATT = layer.attention_weights(x_NTD)
            x_NTD = layer(x_NTD)
        return x_NTD, attention_NATT


def sdpose_t() -> SDPose:
    return SDPose(backbone=StemNet(width=64), patch_size=(4, 3), depth=6, cycle_num=3)


def sdpose_s_v1() -> SDPose:
    return SDPose(backbone=StemNet(width=64), patch_size=(4, 3), depth=12, cycle_num=2)


def sdpose_s_v2() -> SDPose:
    return SDPose(backbone=StemNet(width=64), patch_size=(2, 2), depth=12, cycle_num=2)


def sdpose_b() -> SDPose:
    return SDPose(backbone=HRNet3Stage(width=32), patch_size=(4, 3), depth=12, cycle_num=2)
