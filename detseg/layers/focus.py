"""The stem of YOLOX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detseg.layers.conv import ConvNormAct


class Focus(nn.Module):
    """Turn every 2x2 square of pixels into channels, then convolve: half the resolution without losing a pixel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, activation: str = "silu") -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * in_channels, out_channels, kernel, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]``, H and W even -> ``[B, out_channels, H / 2, W / 2]``."""
        # Column by column is the order in which the official weights were trained.
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out
