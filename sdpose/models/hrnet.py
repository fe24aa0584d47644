"""HRNet (Sun et al., CVPR 2019) without its fourth stage: the backbone of SDPose-B."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdpose.models.layers import BasicBlock, ConvNorm
from sdpose.models.stemnet import StemNet

BLOCKS_PER_BRANCH = 4
STAGE3_MODULES = 4


class FuseUp(nn.Module):
    """1x1 convolution, BatchNorm, and nearest-neighbour upsampling by `factor`."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.factor = factor

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.interpolate(self.norm(self.conv(x_NCHW)), scale_factor=self.factor, mode="nearest")


def _fuse_down(in_channels: int, out_channels: int, *, halvings: int) -> nn.Sequential:
    """Strided convolutions, each halving the resolution; only the last changes the channels."""
    return nn.Sequential(
        *(
            ConvNorm(in_channels, in_channels, kernel_size=3, stride=2, relu=True)
            for _ in range(halvings - 1)
        ),
        ConvNorm(in_channels, out_channels, kernel_size=3, stride=2),
    )


class Fusion(nn.ModuleList):
    """Sum all branches at the resolution of branch `target`, followed by ReLU."""

    def __init__(self, channels: tuple[int, ...], *, target: int) -> None:
        def path(source: int) -> nn.Module:
            if source == target:
                return nn.Identity()
            if source > target:
                return FuseUp(channels[source], channels[target], factor=2 ** (source - target))
            return _fuse_down(channels[source], channels[target], halvings=target - source)

        super().__init__(path(source) for source in range(len(channels)))

    def forward(self, features: list[Tensor]) -> Tensor:
        first, *others = [path(x) for path, x in zip(self, features, strict=True)]
        return F.relu(sum(others, start=first))


class HRModule(nn.Module):
    """Parallel branches of basic blocks, then fusion across the resolutions.

    Args:
        channels: branch b has `channels[b]` channels and 1 / 2^b of the first one's resolution.
        num_outputs: number of fused resolutions to compute, the highest first.
    """

    def __init__(self, channels: tuple[int, ...], *, num_outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(BLOCKS_PER_BRANCH)))
            for width in channels
        )
        self.fuse = nn.ModuleList(Fusion(channels, target=target) for target in range(num_outputs))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [fusion(features) for fusion in self.fuse]


class HRNet3Stage(StemNet):
    """Map images [N, 3, 4H, 4W] to the highest-resolution features [N, width, H, W], >= 0.

    In the official SDPose-B the bottlenecks of stage 1 have `width` (32) channels, in HRNet-W32 64:
    ImageNet weights do not fit there (`weights.load_backbone_weights`).

    Args:
        width: channels of the highest resolution; each lower one has twice as many.
        num_blocks: bottlenecks of stage 1.
    """

    def __init__(self, *, width: int = 32, num_blocks: int = 4) -> None:
        super().__init__(width=width, num_blocks=num_blocks, stem_channels=64)
        stage1_channels = self.out_channels
        channels = (width, 2 * width, 4 * width)
        self.transition1 = nn.ModuleList(
            [
                ConvNorm(stage1_channels, channels[0], kernel_size=3, relu=True),
                ConvNorm(stage1_channels, channels[1], kernel_size=3, stride=2, relu=True),
            ]
        )
        self.stage2 = nn.ModuleList([HRModule(channels[:2], num_outputs=2)])
        self.transition2 = nn.ModuleList(
            [
                nn.Identity(),
                nn.Identity(),
                ConvNorm(channels[1], channels[2], kernel_size=3, stride=2, relu=True),
            ]
        )
        self.stage3 = nn.ModuleList(
            HRModule(channels, num_outputs=1 if last else 3)
            for last in [False] * (STAGE3_MODULES - 1) + [True]
        )
        self.out_channels = width

    def forward(self, images_N3HW: Tensor) -> Tensor:
        x_NCHW = super().forward(images_N3HW)
        features = [transition(x_NCHW) for transition in self.transition1]
        for module in self.stage2:
            features = module(features)
        # The new branch starts from the lowest existing resolution.
        sources = [*features, features[-1]]
        features = [transition(x) for transition, x in zip(self.transition2, sources, strict=True)]
        for module in self.stage3:
            features = module(features)
        return features[0]
