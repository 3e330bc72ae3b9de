"""Network in Network (arXiv 1312.4400): convolutions each followed by pointwise ones, with pooling in between."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from detseg.layers.conv import Activation, ConvNormAct
from detseg.models.base import Backbone, require_positive

STAGES = ((96, 11, 4), (256, 5, 1), (384, 3, 1), (1024, 3, 1))
"""Of the network for ImageNet: channels, side of the first kernel, and its stride."""


@dataclass(frozen=True)
class NiNConfig:
    """Network in Network with batch norm, which the paper does not have yet."""

    name: str = "nin"
    width: float = 0.5
    """Multiplies the number of channels; 1 is the network for ImageNet."""
    activation: Activation = "relu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        require_positive("backbone width", self.width)

    def build(self) -> NiN:
        """The network without its classifier, freshly initialized."""
        incoming, stages, channels = 3, [], []
        for count, kernel, stride in STAGES:
            size = max(8, round(count * self.width / 8) * 8)
            stages.append(
                nn.Sequential(
                    ConvNormAct(incoming, size, kernel, stride, activation=self.activation),
                    ConvNormAct(size, size, activation=self.activation),
                    ConvNormAct(size, size, activation=self.activation),
                )
            )
            channels.append(size)
            incoming = size
        return NiN(stages, tuple(channels[1:]))


class NiN(Backbone):
    """Four blocks, each at half the resolution of the one before; the last three are the pyramid."""

    def __init__(self, stages: list[nn.Sequential], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = channels
        self.strides = (8, 16, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the maps at strides 8, 16 and 32."""
        x = self.stages[0](images)
        levels = []
        for stage in list(self.stages)[1:]:
            x = stage(self.pool(x))
            levels.append(x)
        return levels
