"""A class for every pixel from any backbone: a feature pyramid and the semantic branch of Panoptic FPN (Kirillov et
al., arXiv 1901.02446, section 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.config import choice
from detseg.layers.conv import Activation, ConvNormAct, fuse
from detseg.models.backbones import BACKBONES
from detseg.models.base import Backbone, BackboneConfig, require_positive


@dataclass(frozen=True)
class SemanticFPNConfig:
    """A backbone of one's choice as an encoder, a feature pyramid and the semantic branch of Panoptic FPN."""

    name: str = "semantic_fpn"
    backbone: BackboneConfig = choice(BACKBONES, default="resnet18")
    """The network that turns an image into maps of several levels."""
    pyramid_channels: int = 256
    """Channels of each level of the pyramid."""
    channels: int = 128
    """Channels of the map that the levels are summed to."""
    activation: Activation = "relu"
    """What follows each convolution of the branch."""

    def __post_init__(self) -> None:
        require_positive("pyramid_channels", self.pyramid_channels)
        require_positive("channels", self.channels)

    def build(self, num_classes: int) -> SemanticFPN:
        """The network for ``num_classes`` classes, freshly initialized.

        Raises:
            ValueError: ``num_classes`` is not positive, or neighboring levels of the backbone are not a factor of two
                apart.
        """
        require_positive("num_classes", num_classes)
        return SemanticFPN(self.backbone.build(), num_classes, self.pyramid_channels, self.channels, self.activation)


class SemanticFPN(nn.Module):
    """Every level of the pyramid is enlarged to the finest one, twofold by a 3x3 convolution and bilinear
    interpolation; their sum is classified and enlarged to the image.

    ``stride``: what sides of images are multiples of where nothing shall be padded, and in an exported graph that takes
    several sizes. The levels are those of the backbone, so that the sum has a stride of 8, where the paper has one of
    4. Batch norm stands in the place of its group norm: it is folded away for inference.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        channels: int = 128,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        strides = backbone.strides
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ValueError(f"the pyramid needs levels that are a factor of two apart, got strides {strides}")
        self.num_classes = num_classes
        self.strides = strides
        self.stride = strides[-1]
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(size, pyramid_channels, 1) for size in backbone.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(pyramid_channels, pyramid_channels, 3, padding=1) for _ in strides)
        self.branches = nn.ModuleList(
            _Branch(pyramid_channels, channels, num_doublings, activation) for num_doublings in range(len(strides))
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits.

        Args:
            images: ``[B, 3, H, W]`` floating point, of any height and width; up to the next multiple of the coarsest
                stride they are padded with zeros, to the right and at the bottom.

        Returns:
            ``[B, num_classes, H, W]``.
        """
        height, width = images.shape[-2:]
        # In a graph for many sizes these are multiples of the stride, see `stride`.
        is_padded = not torch.compiler.is_exporting() or isinstance(height, int)
        if is_padded:
            images = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        levels = self._pyramid(self.backbone(images))
        total = torch.stack([branch(level) for branch, level in zip(self.branches, levels, strict=True)]).sum(0)
        logits = F.interpolate(
            self.classifier(total), scale_factor=float(self.strides[0]), mode="bilinear", align_corners=False
        )
        return logits[..., :height, :width] if is_padded else logits

    def fuse(self) -> Self:
        """Fold batch norms into convolutions, in place, for inference; returns itself.

        Raises:
            ValueError: the network is in training mode.
        """
        fuse(self)
        return self

    def _pyramid(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the backbone, fine to coarse -> as many of the pyramid (FPN, arXiv 1612.03144, section 3)."""
        inner: list[Tensor] = []
        for lateral, feature in zip(reversed(self.lateral), reversed(features), strict=True):
            level = lateral(feature)
            if inner:
                level = level + F.interpolate(inner[-1], scale_factor=2.0, mode="nearest")
            inner.append(level)
        return [smooth(level) for smooth, level in zip(self.smooth, reversed(inner), strict=True)]


class _Branch(nn.Module):
    """A level at the resolution of the finest one, ``num_doublings`` finer: as many times a convolution and twice the
    size; the finest one itself goes through a convolution only."""

    def __init__(self, in_channels: int, channels: int, num_doublings: int, activation: str) -> None:
        super().__init__()
        self.num_doublings = num_doublings
        self.convs = nn.ModuleList(
            ConvNormAct(in_channels if number == 0 else channels, channels, 3, activation=activation)
            for number in range(max(1, num_doublings))
        )

    def forward(self, level: Tensor) -> Tensor:
        for conv in self.convs:
            level = conv(level)
            if self.num_doublings:
                level = F.interpolate(level, scale_factor=2.0, mode="bilinear", align_corners=False)
        return level
