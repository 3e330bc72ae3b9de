"""1x1 convolutions in training, as the matrix products that they are where channels lie last in memory.

PyTorch copies such an input to another layout and back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.cpu.rows import has_rows
from detseg.layers.cpu.switch import speeds_up


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with kernels of one pixel, by name and result."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, O, H, W]``."""
        if not (torch.is_grad_enabled() and speeds_up(input) and has_rows(input)):
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
