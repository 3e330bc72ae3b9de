"""Cross-stage partial blocks (CSPNet, arXiv 1911.11929): part of the channels pass through bottlenecks, part around."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detseg.layers.conv import ConvNormAct, make_conv


class Bottleneck(nn.Module):
    """Two convolutions of constant width, with the input added to the result if ``shortcut``."""

    def __init__(
        self,
        channels: int,
        shortcut: bool = True,
        first_kernel: int = 3,
        activation: str = "silu",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, first_kernel, activation=activation)
        self.conv2 = make_conv(channels, channels, 3, activation=activation, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """The block of YOLOv8: a chain of bottlenecks on half of the channels, all links of which reach the output."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, shortcut: bool = True, activation: str = "silu"
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = ConvNormAct(in_channels, 2 * hidden, activation=activation)
        self.conv2 = ConvNormAct((2 + num_blocks) * hidden, out_channels, activation=activation)
        self.blocks = nn.ModuleList(Bottleneck(hidden, shortcut, activation=activation) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``."""
        links = list(self.conv1(x).chunk(2, dim=1))
        for block in self.blocks:
            links.append(block(links[-1]))
        out: Tensor = self.conv2(torch.cat(links, dim=1))
        return out


class CSPLayer(nn.Module):
    """The block of YOLOX: a chain of bottlenecks on one half of the channels, a pointwise convolution on the other."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        shortcut: bool = True,
        activation: str = "silu",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = ConvNormAct(in_channels, hidden, activation=activation)
        self.conv2 = ConvNormAct(in_channels, hidden, activation=activation)
        self.conv3 = ConvNormAct(2 * hidden, out_channels, activation=activation)
        self.blocks = nn.Sequential(
            *(
                Bottleneck(hidden, shortcut, first_kernel=1, activation=activation, depthwise=depthwise)
                for _ in range(num_blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``."""
        deep, around = self.blocks(self.conv1(x)), self.conv2(x)
        out: Tensor = self.conv3(torch.cat((deep, around), dim=1))
        return out
