"""Light attention: a weight for every channel, or for every pixel of every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelWeights(nn.Module):
    """Efficient channel attention (ECA-Net, arXiv 1910.03151): each channel's weight from its mean and its neighbors'.

    Gives the weights rather than the weighted input, so that the caller can multiply and add in one pass.
    """

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.matrix: Tensor | None
        self.register_buffer("matrix", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, 1, 1]`` in (0, 1)."""
        if self.matrix is not None and torch.compiler.is_exporting():
            return torch.sigmoid(F.conv2d(x.mean(dim=(2, 3), keepdim=True), self.matrix))
        means = x.mean(dim=(2, 3))
        return torch.sigmoid(self.conv(means[:, None])).transpose(1, 2)[..., None]

    @torch.no_grad()
    def fuse(self, channels: int) -> None:
        """Be, in an exported graph, one 1x1 convolution of images of so many ``channels``: three nodes, where moving
        the axes for the convolution along the channels takes six."""
        taps = self.conv.weight.flatten()
        reach = len(taps) // 2
        matrix = taps.new_zeros(channels, channels)
        for step in range(-min(reach, channels - 1), min(reach, channels - 1) + 1):
            matrix.diagonal(step).fill_(taps[reach + step])
        self.matrix = matrix[:, :, None, None]


class PixelAttention(nn.Module):
    """Pixel attention (arXiv 2010.01073): the input times a weight for every value of it, by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        return x * torch.sigmoid(self.conv(x))
