"""An end-to-end head: a branch that many predictions of an object train, and beside it one whose objects have one
prediction each, so that no NMS is needed (YOLOv10, arXiv 2405.14458, section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from detseg.layers.conv import Activation, make_conv
from detseg.models.base import Head, require_positive
from detseg.models.heads.dfl import class_prior, prediction_branch, set_bias

Branch = Literal["one_to_one", "one_to_many"]

FIRST_DISTANCE = 2.0
"""Strides from a place to each side of its box before anything is learned: boxes of 4 strides, as the anchors of
RetinaNet (arXiv 1708.02002, section 4)."""


@dataclass(frozen=True)
class E2EHeadConfig:
    """A one-to-many and a one-to-one branch, trained together; one of them is deployed, by default without NMS."""

    name: str = "e2e"
    reg_max: int = 1
    """Distances, 0 to ``reg_max - 1`` strides, that are told apart for each side of a box; 1: a side is a plain number
    of strides, without a distribution (no DFL)."""
    branch: Branch = "one_to_one"
    """Which branch gives results. ``one_to_many`` needs NMS."""
    activation: Activation = "silu"
    """What follows each convolution."""
    gradient_share: float = 1.0
    """How much of the gradient of the one-to-one branch reaches neck and backbone, from 0 to 1; 0: they learn from the
    other branch alone, as those of YOLOv10. On BCCD, 205 images, AP was 0.02 higher with all of it (one seed)."""

    def __post_init__(self) -> None:
        require_positive("head reg_max", self.reg_max)
        if not 0 <= self.gradient_share <= 1:
            raise ValueError(f"head gradient_share must lie between 0 and 1, got {self.gradient_share}")

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> E2EHead:
        """The head for a neck with these channels and strides."""
        return E2EHead(channels, strides, num_classes, self.reg_max, self.branch, self.activation, self.gradient_share)


class E2EHead(Head):
    """Two branches of one shape. Of the gradient of the one-to-one branch ``gradient_share`` reaches the neck; all of
    that of the other does."""

    kind: ClassVar[Literal["e2e"]] = "e2e"

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        num_classes: int,
        reg_max: int = 1,
        branch: Branch = "one_to_one",
        activation: str = "silu",
        gradient_share: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive("num_classes", num_classes)
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.gradient_share = gradient_share
        self.one_to_one = branch == "one_to_one"
        self.many: _LightBranch | None = _LightBranch(channels, strides, num_classes, reg_max, activation)
        self.one: _LightBranch | None = copy.deepcopy(self.many)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level ``[B, 4 * reg_max + num_classes, H, W]``: left, top, right and bottom, bins or plain distances in
        strides, then class logits; of the branch that gives results, in training mode of the one-to-many branch and
        then of the one-to-one branch."""
        if self.training:
            assert self.many is not None
            assert self.one is not None
            levels: list[Tensor] = self.many(features)
            return [*levels, *self.one([_weigh_gradient(feature, self.gradient_share) for feature in features])]
        chosen = self.one if self.one_to_one else self.many
        assert chosen is not None
        found: list[Tensor] = chosen(features)
        return found

    def drop_training_branches(self) -> None:
        """Give up the branch that gives no results."""
        if self.one_to_one:
            self.many = None
        else:
            self.one = None


def _weigh_gradient(feature: Tensor, share: float) -> Tensor:
    """``feature``, back to which goes this share of the gradient."""
    if share in (0, 1):
        return feature if share else feature.detach()
    return torch.lerp(feature.detach(), feature, share)


class _LightBranch(nn.Module):
    """Per level two 3x3 convolutions and a pointwise one for boxes, and for classes two 3x3 convolutions that are
    depthwise separable, and a pointwise one (the light classification head of arXiv 2405.14458, section 3.2)."""

    def __init__(
        self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int, reg_max: int, activation: str
    ) -> None:
        super().__init__()
        box_hidden = max(16, channels[0] // 4, 4 * reg_max if reg_max > 1 else 0)
        class_hidden = max(channels[0], min(num_classes, 100))
        self.boxes = nn.ModuleList(prediction_branch(size, box_hidden, 4 * reg_max, activation) for size in channels)
        self.classes = nn.ModuleList(
            nn.Sequential(
                make_conv(size, class_hidden, 3, activation=activation, depthwise=True),
                make_conv(class_hidden, class_hidden, 3, activation=activation, depthwise=True),
                nn.Conv2d(class_hidden, num_classes, 1),
            )
            for size in channels
        )
        for stride, box_branch, class_branch in zip(strides, self.boxes, self.classes, strict=True):
            set_bias(box_branch, 1.0 if reg_max > 1 else FIRST_DISTANCE)
            set_bias(class_branch, class_prior(num_classes, stride))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.cat((boxes(feature), classes(feature)), dim=1)
            for feature, boxes, classes in zip(features, self.boxes, self.classes, strict=True)
        ]
