"""The decoupled, anchor-free head of YOLOX with objectness (arXiv 2107.08430)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from detseg.layers.conv import Activation, ConvNormAct, make_conv
from detseg.models.base import Head, require_positive

PRIOR = 0.01


@dataclass(frozen=True)
class YOLOXHeadConfig:
    """YOLOX's head: boxes, objectness and classes as plain numbers."""

    name: str = "yolox"
    channels: int | None = None
    """Width of the branches, the same at all levels; null: that of the finest level."""
    depthwise: bool = False
    """Whether the 3x3 convolutions are separated (YOLOX-Nano)."""
    activation: Activation = "silu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        if self.channels is not None:
            require_positive("head channels", self.channels)

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> YOLOXHead:
        """The head for a neck with these channels; its weights do not depend on the strides."""
        hidden = channels[0] if self.channels is None else self.channels
        return YOLOXHead(channels, hidden, num_classes, self.depthwise, self.activation)


class YOLOXHead(Head):
    """Per level a stem and two branches of two 3x3 convolutions: one for classes, one for box and objectness."""

    kind: ClassVar[Literal["yolox"]] = "yolox"

    def __init__(
        self,
        channels: tuple[int, ...],
        hidden: int,
        num_classes: int,
        depthwise: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        require_positive("num_classes", num_classes)
        self.num_classes = num_classes

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *(make_conv(hidden, hidden, 3, activation=activation, depthwise=depthwise) for _ in range(2))
            )

        self.class_convs = nn.ModuleList(branch() for _ in channels)
        self.box_convs = nn.ModuleList(branch() for _ in channels)
        self.class_preds = nn.ModuleList(nn.Conv2d(hidden, num_classes, 1) for _ in channels)
        self.box_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in channels)
        self.objectness_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in channels)
        self.stems = nn.ModuleList(ConvNormAct(size, hidden, activation=activation) for size in channels)
        _set_biases((*self.class_preds, *self.objectness_preds))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level ``[B, 4 + 1 + num_classes, H, W]``: x, y, w and h as they are, then objectness and class logits."""
        levels = []
        for index, feature in enumerate(features):
            x = self.stems[index](feature)
            box_feature = self.box_convs[index](x)
            class_feature = self.class_convs[index](x)
            raw = (
                self.box_preds[index](box_feature),
                self.objectness_preds[index](box_feature),
                self.class_preds[index](class_feature),
            )
            levels.append(torch.cat(raw, dim=1))
        return levels


def _set_biases(predictors: Iterable[nn.Module]) -> None:
    """Start from the probability ``PRIOR`` everywhere, so that background does not drown the first steps (arXiv
    1708.02002)."""
    for predictor in predictors:
        assert isinstance(predictor, nn.Conv2d)
        assert predictor.bias is not None
        nn.init.constant_(predictor.bias, -math.log((1 - PRIOR) / PRIOR))
