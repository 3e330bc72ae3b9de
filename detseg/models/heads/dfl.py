"""The decoupled, anchor-free head of YOLOv8: the four sides of a box as distributions (GFL, arXiv 2006.04388)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from detseg.layers.conv import Activation, ConvNormAct
from detseg.models.base import Head, require_positive


@dataclass(frozen=True)
class DFLHeadConfig:
    """YOLOv8's head: the sides of a box as distributions over distances."""

    renamed: ClassVar[Mapping[str, str]] = {"bins": "reg_max"}

    name: str = "dfl"
    reg_max: int = 16
    """Distances, 0 to ``reg_max - 1`` strides, that are told apart for each side of a box."""
    activation: Activation = "silu"
    """What follows each convolution."""

    def __post_init__(self) -> None:
        if self.reg_max < 2:
            raise ValueError(f"head reg_max must be at least 2, got {self.reg_max}")

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> DFLHead:
        """The head for a neck with these channels and strides."""
        return DFLHead(channels, strides, num_classes, self.reg_max, self.activation)


class DFLHead(Head):
    """Per level one branch for boxes and one for classes, each of two 3x3 convolutions and a pointwise one."""

    kind: ClassVar[Literal["dfl", "dfl_masks"]] = "dfl"

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        reg_max: int = 16,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        require_positive("num_classes", num_classes)
        self.num_classes = num_classes
        self.reg_max = reg_max
        box_hidden = max(16, channels[0] // 4, 4 * reg_max)
        class_hidden = max(channels[0], min(num_classes, 100))
        self.box_branches = nn.ModuleList(
            prediction_branch(size, box_hidden, 4 * reg_max, activation) for size in channels
        )
        self.class_branches = nn.ModuleList(
            prediction_branch(size, class_hidden, num_classes, activation) for size in channels
        )
        # The expected distance is the inner product of a distribution with these; frozen in the official files.
        self.projection = nn.Parameter(
            torch.arange(reg_max, dtype=torch.float32).view(1, reg_max, 1, 1), requires_grad=False
        )
        self._set_biases(strides)

    def _set_biases(self, strides: tuple[int, ...]) -> None:
        """Start near the truth."""
        for stride, box_branch, class_branch in zip(strides, self.box_branches, self.class_branches, strict=True):
            set_bias(box_branch, 1.0)
            set_bias(class_branch, class_prior(self.num_classes, stride))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level ``[B, 4 * reg_max + num_classes, H, W]``: bins of left, top, right, bottom, then class logits."""
        return [
            torch.cat((box_branch(feature), class_branch(feature)), dim=1)
            for feature, box_branch, class_branch in zip(features, self.box_branches, self.class_branches, strict=True)
        ]


def prediction_branch(in_channels: int, hidden: int, out_channels: int, activation: str) -> nn.Sequential:
    """Two 3x3 convolutions and a pointwise one."""
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, 3, activation=activation),
        ConvNormAct(hidden, hidden, 3, activation=activation),
        nn.Conv2d(hidden, out_channels, 1),
    )


def class_prior(num_classes: int, stride: int) -> float:
    """The logit of a class at a place where there are some five objects in an image of 640 x 640 pixels (the prior of
    arXiv 1708.02002)."""
    return math.log(5 / num_classes / (640 / stride) ** 2)


def set_bias(branch: nn.Module, value: float) -> None:
    """Fill the bias of the pointwise convolution that ends a :func:`prediction_branch`."""
    assert isinstance(branch, nn.Sequential)
    predictor = branch[-1]
    assert isinstance(predictor, nn.Conv2d)
    assert predictor.bias is not None
    nn.init.constant_(predictor.bias, value)
