"""Layers of the models.

Shapes: N batch, C channels, H W feature map, T tokens, D token width, A heads, K keypoints.
All modules take plain numbers and support any memory format and autocast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution without bias ("same" padding), BatchNorm, and ReLU if `relu`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = relu

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.norm(self.conv(x_NCHW))
        return F.relu(x_NCHW, inplace=True) if self.relu else x_NCHW


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a residual connection (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = F.relu(self.norm1(self.conv1(x_NCHW)), inplace=True)
        y_NCHW = self.norm2(self.conv2(y_NCHW))
        return F.relu(y_NCHW + x_NCHW, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a residual connection; 4 * `channels` outputs."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels
            else ConvNorm(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = F.relu(self.norm1(self.conv1(x_NCHW)), inplace=True)
        y_NCHW = F.relu(self.norm2(self.conv2(y_NCHW)), inplace=True)
        y_NCHW = self.norm3(self.conv3(y_NCHW))
        return F.relu(y_NCHW + self.shortcut(x_NCHW), inplace=True)


class Attention(nn.Module):
    """Multi-head self-attention; scale (dim / heads)^-0.5, no bias on queries, keys and values."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        q_NATd, k_NATd, v_NATd = self._split(x_NTD)
        y_NATd = F.scaled_dot_product_attention(q_NATd, k_NATd, v_NATd)
        return self.out(y_NATd.transpose(1, 2).flatten(2))

    def weights(self, x_NTD: Tensor) -> Tensor:
        """Compute the attention map [N, A, T, T], rows sum to 1.

        `forward` cannot return it: its fused kernels never materialise it.
        """
        q_NATd, k_NATd, _ = self._split(x_NTD)
        scale = q_NATd.shape[-1] ** -0.5
        return (scale * q_NATd @ k_NATd.transpose(-1, -2)).softmax(dim=-1)

    def _split(self, x_NTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv_NTD = self.qkv(x_NTD)
        q_NATd, k_NATd, v_NATd = qkv_NTD.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q_NATd, k_NATd, v_NATd


class FeedForward(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_NTD)))


class TransformerLayer(nn.Module):
    """Attention, then feed-forward, both pre-norm and residual."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim=dim, heads=heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim=dim, hidden_dim=mlp_dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        x_NTD = x_NTD + self.attention(self.attention_norm(x_NTD))
        return x_NTD + self.mlp(self.mlp_norm(x_NTD))

    def attention_weights(self, x_NTD: Tensor) -> Tensor:
        """Compute the attention map [N, A, T, T] of `forward` for the same input."""
        return self.attention.weights(self.attention_norm(x_NTD))


class HeatmapHead(nn.Module):
    """Map keypoint tokens [N, K, D] to heatmaps [N, K, h, w], without activation.

    As in the official code, there is a hidden layer of h * w / 8 units if that is at least twice
    the token width, else a single linear layer.

    Args:
        dim: token width D.
        heatmap_size: (h, w).
    """

    def __init__(self, *, dim: int, heatmap_size: tuple[int, int]) -> None:
        super().__init__()
        pixels = heatmap_size[0] * heatmap_size[1]
        hidden_dim = pixels // 8
        self.heatmap_size = heatmap_size
        self.two_layers = 2 * dim <= hidden_dim
        self.norm1 = nn.LayerNorm(dim)
        if self.two_layers:
            self.fc1 = nn.Linear(dim, hidden_dim)
            self.norm2 = nn.LayerNorm(hidden_dim)
            self.fc2 = nn.Linear(hidden_dim, pixels)
        else:
            self.fc1 = nn.Linear(dim, pixels)

    def forward(self, keypoint_tokens_NKD: Tensor) -> Tensor:
        # In float32 also under autocast: with the 8 bits of bfloat16 the pixels around a smooth
        # peak are equal, and the argmax moves. The head has 1 % of SDPose-S-V1's MACs.
        device = keypoint_tokens_NKD.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._heatmaps(keypoint_tokens_NKD.float())
        return self._heatmaps(keypoint_tokens_NKD)

    def _heatmaps(self, x_NKD: Tensor) -> Tensor:
        x_NKP = self.fc1(self.norm1(x_NKD))
        if self.two_layers:
            x_NKP = self.fc2(self.norm2(x_NKP))
        return x_NKP.unflatten(-1, self.heatmap_size)


def patches(feature_NCHW: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Split a feature map into patches, row by row: [N, patches, p1 * p2 * C], channels fastest.

    Args:
        feature_NCHW: H and W are multiples of the patch size.
        patch_size: (p1, p2), height and width.
    """
    p1, p2 = patch_size
    x_NChpwq = feature_NCHW.unflatten(3, (-1, p2)).unflatten(2, (-1, p1))
    return x_NChpwq.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def sine_position_embedding(height: int, width: int, dim: int) -> Tensor:
    """Compute the fixed two-dimensional embedding [1, height * width, dim] of TokenPose and DETR.

    The first half of the channels encodes y, the second x. Positions count from 1 and are scaled to
    2 pi at the far edge; sine and cosine alternate, with wavelengths of up to 10000 * 2 pi. The
    norm is sqrt(dim / 2) at every position.
    """
    half = dim // 2
    exponents = 2 * (torch.arange(half, dtype=torch.float32) // 2) / half
    wavelengths = 10000.0**exponents

    def encode(length: int) -> Tensor:
        positions = torch.arange(1, length + 1, dtype=torch.float32)
        angles = (positions / (length + 1e-6) * (2 * math.pi))[:, None] / wavelengths
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1)

    y = encode(height)[:, None, :].expand(height, width, half)
    x = encode(width)[None, :, :].expand(height, width, half)
    return torch.cat((y, x), dim=2).flatten(0, 1)[None]
