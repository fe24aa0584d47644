"""StemNet: the stem of HRNet and ResNet as a backbone of its own (TokenPose-S, SDPose-T/S)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdpose.models.layers import Bottleneck


class StemNet(nn.Module):
    """Map images [N, 3, 4H, 4W] to features [N, 4 * width, H, W], >= 0.

    Args:
        width: channels inside the bottlenecks.
        num_blocks: number of bottlenecks.
        stem_channels: of the two strided 3x3 convolutions before them; default: `width`.
    """

    def __init__(
        self, *, width: int = 64, num_blocks: int = 4, stem_channels: int | None = None
    ) -> None:
        super().__init__()
        stem_channels = stem_channels or width
        self.out_channels = Bottleneck.expansion * width
        self.conv1 = nn.Conv2d(3, stem_channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(stem_channels)
        self.conv2 = nn.Conv2d(stem_channels, stem_channels, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(stem_channels)
        self.blocks = nn.Sequential(
            *(
                Bottleneck(stem_channels if index == 0 else self.out_channels, width)
                for index in range(num_blocks)
            )
        )

    def forward(self, images_N3HW: Tensor) -> Tensor:
        x_NCHW = F.relu(self.norm1(self.conv1(images_N3HW)), inplace=True)
        x_NCHW = F.relu(self.norm2(self.conv2(x_NCHW)), inplace=True)
        return self.blocks(x_NCHW)
