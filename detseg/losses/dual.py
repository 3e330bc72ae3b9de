"""The loss of an end-to-end head: both of its branches, each by its own assignment (YOLOv10, arXiv 2405.14458)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from detseg.losses.base import LossSum
from detseg.losses.detection import TALLoss, TALSettings


@dataclass(frozen=True)
class DualLossConfig(TALSettings):
    """Dual assignment for the ``e2e`` head: ``top_k`` predictions of an object train its one-to-many branch and one its
    one-to-one branch, chosen by the same alignment."""

    name: str = "dual"

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> DualLoss:
        """The loss for a model of these dimensions."""
        many = TALLoss(num_classes, strides, reg_max, self)
        return DualLoss(many, replace(many, one_to_one=True))


@dataclass(frozen=True)
class DualLoss:
    """Task-aligned losses of the one-to-many branch (``many``) and of the one-to-one branch (``one``); a
    :class:`detseg.losses.detection.DetectionLoss`.

    Parts are those of ``many``, and with ``o2o_`` before their names those of ``one``. The normalizer is that of
    ``many``; the parts of ``one`` are scaled so that over it they are what they would be over their own: so the loss of
    a batch is the sum of both branches' losses. Of several batches that make one step, the losses of ``one`` count by
    the batches' normalizers, while all other parts are as if they were one batch.
    """

    head_kind: ClassVar[str] = "e2e"

    many: TALLoss
    one: TALLoss

    def __call__(self, levels: Sequence[Tensor], boxes_xyxy: Tensor, labels: Tensor) -> LossSum:
        """See :class:`detseg.losses.detection.DetectionLoss`; ``levels`` are those of the one-to-many branch, then
        those of the other.

        Raises:
            ValueError: they are not twice as many as there are strides; the head gives both branches in training mode.
        """
        num_levels = len(self.many.strides)
        if len(levels) != 2 * num_levels:
            raise ValueError(
                f"the loss of two branches needs {2 * num_levels} maps, {num_levels} of each, got {len(levels)}; "
                "put the model into training mode"
            )
        many = self.many(levels[:num_levels], boxes_xyxy, labels)
        one = self.one(levels[num_levels:], boxes_xyxy, labels)
        scale = many.normalizer.clamp(min=1) / one.normalizer.clamp(min=1)
        return LossSum(many.parts | {f"o2o_{name}": part * scale for name, part in one.parts.items()}, many.normalizer)
