"""A detector: backbone, neck and head, from images to raw predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from detseg.config import choice
from detseg.layers.conv import fuse
from detseg.models.backbones import BACKBONES
from detseg.models.base import Backbone, BackboneConfig, Head, HeadConfig, MaskMaps, Neck, NeckConfig
from detseg.models.heads import HEADS
from detseg.models.necks import NECKS


@dataclass(frozen=True)
class DetectorConfig:
    """A backbone, a neck and a head of one's choice; without a choice the C2f detector of size n."""

    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"head": {"direct": "yolox"}}

    name: str = "detector"
    backbone: BackboneConfig = choice(BACKBONES, default="csp_darknet")
    """The network that turns an image into maps of several levels."""
    neck: NeckConfig = choice(NECKS, default="pan")
    """The network that mixes the levels."""
    head: HeadConfig = choice(HEADS, default="dfl")
    """The network that turns the levels into raw predictions; it must be the one that the loss is for."""

    def build(self, num_classes: int) -> Detector:
        """The detector for ``num_classes`` classes, freshly initialized.

        Raises:
            ValueError: ``num_classes`` is not positive, or the parts do not fit each other.
        """
        backbone = self.backbone.build()
        neck = self.neck.build(backbone.channels, backbone.strides)
        head = self.head.build(neck.channels, neck.strides, num_classes)
        return Detector(backbone, neck, head)


class Detector(nn.Module):
    """Images to raw predictions; what the channels of these mean depends on ``head.kind``."""

    def __init__(self, backbone: Backbone, neck: Neck, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.strides = neck.strides
        self.num_classes = head.num_classes

    def forward(self, images: Tensor) -> list[Tensor] | MaskMaps:
        """Raw predictions per level, fine to coarse.

        Args:
            images: ``[B, 3, H, W]`` floating point, H and W multiples of the coarsest stride.

        Returns:
            Per level ``[B, C, H / stride, W / stride]``. Head kind ``dfl``: ``4 * reg_max`` box logits (left, top,
            right, bottom), then class logits. Kind ``yolox``: raw x, y, w, h, then objectness and class logits. Kind
            ``dfl_masks``: :class:`detseg.models.base.MaskMaps`, the levels as of ``dfl`` with coefficients at the end.
            Kind ``e2e``: as of ``dfl``, in training mode first of the one-to-many branch, then of the other.

        Raises:
            ValueError: H or W is not a multiple of the coarsest stride.
        """
        if not torch.compiler.is_compiling():
            self._check_size(images)
        raw: list[Tensor] | MaskMaps = self.head(self.neck(self.backbone(images)))
        return raw

    def fuse(self) -> Self:
        """Fold batch norms into convolutions and drop what only training needs, in place; returns itself.

        Raises:
            ValueError: the detector is in training mode.
        """
        fuse(self)
        self.head.drop_training_branches()
        return self

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.strides[-1] or width % self.strides[-1]:
            raise ValueError(f"image height and width must be multiples of {self.strides[-1]}, got {height}x{width}")
