"""PAN (arXiv 1803.01534): coarse levels inform fine ones on the way down, fine ones the coarse ones on the way up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.conv import Activation, ConvNormAct, make_conv
from detseg.layers.csp import C2f, CSPLayer
from detseg.models.base import Neck, require_positive, scaled_depth


@dataclass(frozen=True)
class PANConfig:
    """A path aggregation network in the form of YOLOv8 or of YOLOX."""

    name: str = "pan"
    block: Literal["c2f", "csp"] = "c2f"
    """The form: ``c2f`` is YOLOv8's (no lateral convolutions), ``csp`` is YOLOX's (pointwise ones)."""
    depth: float = 0.33
    """Multiplies the three blocks of each merge."""
    channels: tuple[int, ...] | None = None
    """Channels of the output, fine to coarse; null: the backbone's. Backbones with wide maps (ResNet-50: 512, 1024,
    2048) are best given smaller ones."""
    depthwise: bool = False
    """Whether the 3x3 convolutions of the ``csp`` form are separated (YOLOX-Nano)."""
    activation: Activation = "silu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        require_positive("neck depth", self.depth)
        for channels in self.channels or ():
            require_positive("neck channels", channels)
        if self.depthwise and self.block != "csp":
            raise ValueError("depthwise: true is for block: csp; block: c2f has dense convolutions only")

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...]) -> PAN:
        """The neck for a backbone with these channels and strides, fine to coarse.

        Raises:
            ValueError: the number of output channels differs from the number of levels, or neighboring strides are not
                a factor of two apart.
        """
        outgoing = self.channels or channels
        if len(outgoing) != len(strides):
            raise ValueError(
                f"neck channels must be {len(strides)} numbers, one per backbone level, got {list(outgoing)}"
            )
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ValueError(f"PAN needs levels that are a factor of two apart, the backbone has strides {strides}")
        top_down, bottom_up = [], []
        inner, kept = channels[-1], []
        for level in reversed(range(len(strides) - 1)):
            reduce: nn.Module = nn.Identity()
            if self.block == "csp":
                reduce = ConvNormAct(inner, outgoing[level], activation=self.activation)
                inner = outgoing[level]
            kept.append(inner)
            top_down.append(_TopDown(reduce, self._block(inner + channels[level], outgoing[level])))
            inner = outgoing[level]
        for level in range(1, len(strides)):
            down = make_conv(inner, inner, 3, 2, self.activation, self.depthwise)
            bottom_up.append(_BottomUp(down, self._block(inner + kept.pop(), outgoing[level])))
            inner = outgoing[level]
        return PAN(top_down, bottom_up, outgoing, strides)

    def _block(self, in_channels: int, out_channels: int) -> nn.Module:
        num_blocks = scaled_depth(3, self.depth)
        if self.block == "c2f":
            return C2f(in_channels, out_channels, num_blocks, shortcut=False, activation=self.activation)
        return CSPLayer(
            in_channels,
            out_channels,
            num_blocks,
            shortcut=False,
            activation=self.activation,
            depthwise=self.depthwise,
        )


class _TopDown(nn.Module):
    """Reduce the coarse map, then enlarge it and mix it with the finer one."""

    def __init__(self, reduce: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.reduce = reduce
        self.block = block

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        reduced = self.reduce(coarse)
        enlarged = F.interpolate(reduced, scale_factor=2.0, mode="nearest")
        return reduced, self.block(torch.cat((enlarged, fine), dim=1))


class _BottomUp(nn.Module):
    """Shrink the fine map and mix it with the coarser one."""

    def __init__(self, down: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.block = block

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat((self.down(fine), coarse), dim=1))
        return out


class PAN(Neck):
    """A top-down path of merges followed by a bottom-up one."""

    def __init__(
        self,
        top_down: list[_TopDown],
        bottom_up: list[_BottomUp],
        channels: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(top_down)
        self.bottom_up = nn.ModuleList(bottom_up)
        self.channels = channels
        self.strides = strides

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map per level, fine to coarse -> as many of the same sizes."""
        *finer, inner = features
        kept = []
        for step, feature in zip(self.top_down, reversed(finer), strict=True):
            reduced, inner = step(inner, feature)
            kept.append(reduced)
        levels = [inner]
        for step in self.bottom_up:
            inner = step(inner, kept.pop())
            levels.append(inner)
        return levels
