"""Spatial pyramid pooling: context of several sizes at one resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.conv import ConvNormAct


class SPPF(nn.Module):
    """Three 5x5 max poolings in a chain between two pointwise convolutions.

    The chain sees windows of 5, 9 and 13, so this is the same function as SPP (arXiv 1406.4729) with these kernels in
    parallel, as YOLOX draws it, at a fraction of the comparisons.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5, activation: str = "silu") -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvNormAct(in_channels, hidden, activation=activation)
        self.conv2 = ConvNormAct(4 * hidden, out_channels, activation=activation)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``."""
        pooled = [self.conv1(x)]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], self.kernel, stride=1, padding=self.kernel // 2))
        out: Tensor = self.conv2(torch.cat(pooled, dim=1))
        return out
