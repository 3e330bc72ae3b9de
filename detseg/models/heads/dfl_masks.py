"""YOLOv8-seg's head: boxes as distributions, and masks as sums of prototypes (YOLACT, arXiv 1904.02689)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from detseg.layers.conv import Activation, ConvNormAct
from detseg.models.base import MaskMaps, require_positive
from detseg.models.heads.dfl import DFLHead, prediction_branch


@dataclass(frozen=True)
class DFLMasksHeadConfig:
    """YOLOv8-seg's head: the sides of a box as distributions over distances, its mask as a sum of prototypes."""

    name: str = "dfl_masks"
    reg_max: int = 16
    """Distances, 0 to ``reg_max - 1`` strides, that are told apart for each side of a box."""
    prototypes: int = 32
    """Maps of the whole image that every object's mask is a weighted sum of."""
    prototype_channels: int | None = None
    """Width of the branch that makes the prototypes; null: that of the finest level."""
    activation: Activation = "silu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        if self.reg_max < 2:
            raise ValueError(f"head reg_max must be at least 2, got {self.reg_max}")
        require_positive("head prototypes", self.prototypes)
        if self.prototype_channels is not None:
            require_positive("head prototype_channels", self.prototype_channels)

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> DFLMasksHead:
        """The head for a neck with these channels and strides.

        Raises:
            ValueError: the finest stride is odd, so that there is no map of twice its resolution.
        """
        return DFLMasksHead(
            channels, strides, num_classes, self.reg_max, self.prototypes, self.prototype_channels, self.activation
        )


class DFLMasksHead(DFLHead):
    """As :class:`DFLHead`, with a third branch per level for the coefficients of the prototypes, which are made of the
    finest level at twice its resolution."""

    kind: ClassVar[Literal["dfl", "dfl_masks"]] = "dfl_masks"

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        reg_max: int = 16,
        num_prototypes: int = 32,
        prototype_channels: int | None = None,
        activation: str = "silu",
    ) -> None:
        super().__init__(channels, strides, num_classes, reg_max, activation)
        if strides[0] % 2:
            raise ValueError(f"prototypes have half the finest stride, which must be even, got {strides[0]}")
        self.num_prototypes = num_prototypes
        self.prototype_stride = strides[0] // 2
        hidden = max(channels[0] // 4, num_prototypes)
        self.coefficient_branches = nn.ModuleList(
            prediction_branch(size, hidden, num_prototypes, activation) for size in channels
        )
        self.prototypes = Prototypes(channels[0], prototype_channels or channels[0], num_prototypes, activation)

    def forward(self, features: Sequence[Tensor]) -> MaskMaps:  # type: ignore[override]
        """Per level ``[B, 4 * reg_max + num_classes + num_prototypes, H, W]``, the coefficients last; and the
        prototypes ``[B, num_prototypes, 2 * H, 2 * W]`` of the finest level's H and W."""
        coefficients = [branch(feature) for feature, branch in zip(features, self.coefficient_branches, strict=True)]
        levels = [torch.cat(parts, dim=1) for parts in zip(super().forward(features), coefficients, strict=True)]
        return MaskMaps(levels, self.prototypes(features[0]))


class Prototypes(nn.Module):
    """A level of the neck ``[B, in_channels, H, W]`` -> maps ``[B, out_channels, 2 * H, 2 * W]`` (the protonet of arXiv
    1904.02689, section 3.1, with one upsampling)."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, activation: str = "silu") -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, hidden, 3, activation=activation)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.conv2 = ConvNormAct(hidden, hidden, 3, activation=activation)
        self.conv3 = ConvNormAct(hidden, out_channels, activation=activation)

    def forward(self, feature: Tensor) -> Tensor:
        """The maps, after the last activation."""
        maps: Tensor = self.conv3(self.conv2(self.upsample(self.conv1(feature))))
        return maps
