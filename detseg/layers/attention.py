"""Light attention: a weight for every channel, or for every pixel of every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelWeights(nn.Module):
    """Efficient channel attention (ECA-Net, arXiv 1910.03151): each channel's weight from its mean and its neighbors'.

    Gives the weights rather than the weighted input, so that the caller can multiply and add in one pass.
    """

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, 1, 1]`` in (0, 1)."""
        means = x.mean(dim=(2, 3))
        return torch.sigmoid(self.conv(means[:, None])).transpose(1, 2)[..., None]


class PixelAttention(nn.Module):
    """Pixel attention (arXiv 2010.01073): the input times a weight for every value of it, by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        return x * torch.sigmoid(self.conv(x))
