"""CSPDarknet: the backbone of YOLOv8 (C2f blocks) and of YOLOX (Focus stem and CSP layers, arXiv 2107.08430)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from detseg.layers.conv import Activation, ConvNormAct, make_conv
from detseg.layers.csp import C2f, CSPLayer
from detseg.layers.focus import Focus
from detseg.layers.spp import SPPF
from detseg.models.base import Backbone, require_positive, scaled_depth

STAGE_CHANNELS = (128, 256, 512, 1024)


@dataclass(frozen=True)
class CSPDarknetConfig:
    """CSPDarknet in the form of YOLOv8 or of YOLOX."""

    name: str = "csp_darknet"
    block: Literal["c2f", "csp"] = "c2f"
    """The form: ``c2f`` is YOLOv8's, ``csp`` is YOLOX's."""
    depth: float = 0.33
    """Multiplies the number of blocks."""
    width: float = 0.25
    """Multiplies the number of channels."""
    max_channels: int = 1024
    """Caps the channels, before they are multiplied."""
    depthwise: bool = False
    """Whether the 3x3 convolutions of the ``csp`` form are separated (YOLOX-Nano)."""
    activation: Activation = "silu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        require_positive("backbone depth", self.depth)
        require_positive("backbone width", self.width)
        require_positive("backbone max_channels", self.max_channels)
        if self.depthwise and self.block != "csp":
            raise ValueError("depthwise: true is for block: csp; block: c2f has dense convolutions only")

    def build(self) -> CSPDarknet:
        """The backbone, freshly initialized."""
        stem_channels, *channels = (
            math.ceil(min(channels, self.max_channels) * self.width / 8) * 8 for channels in (64, *STAGE_CHANNELS)
        )
        if self.block == "c2f":
            stem: nn.Module = ConvNormAct(3, stem_channels, 3, stride=2, activation=self.activation)
            num_blocks = [scaled_depth(count, self.depth) for count in (3, 6, 6, 3)]
        else:
            stem = Focus(3, stem_channels, activation=self.activation)
            num_blocks = [scaled_depth(3, self.depth) * factor for factor in (1, 3, 3, 1)]
        incoming = (stem_channels, *channels[:-1])
        stages = [
            self._stage(*sizes, last=index == 3)
            for index, sizes in enumerate(zip(incoming, channels, num_blocks, strict=True))
        ]
        return CSPDarknet(stem, stages, tuple(channels[1:]))

    def _stage(self, in_channels: int, channels: int, num_blocks: int, last: bool) -> nn.Sequential:
        down = make_conv(in_channels, channels, 3, 2, self.activation, self.depthwise)
        pyramid_pooling = [SPPF(channels, channels, activation=self.activation)] if last else []
        if self.block == "c2f":
            return nn.Sequential(
                down, C2f(channels, channels, num_blocks, activation=self.activation), *pyramid_pooling
            )
        layer = CSPLayer(
            channels,
            channels,
            num_blocks,
            shortcut=not last,
            activation=self.activation,
            depthwise=self.depthwise,
        )
        return nn.Sequential(down, *pyramid_pooling, layer)


class CSPDarknet(Backbone):
    """A stem and four stages, each of which halves the resolution; the last three are the pyramid."""

    def __init__(self, stem: nn.Module, stages: list[nn.Sequential], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = channels
        self.strides = (8, 16, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the maps at strides 8, 16 and 32."""
        x = self.stem(images)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels[1:]
