"""The value that every loss returns, and what configures losses of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss before it is normalized, so that the parts of a batch can be added up exactly.

    ``parts`` are scalars with gradient: each term's sum over the batch, times its gain. ``normalizer`` is a float32
    scalar without gradient, summed over the same batch. The loss of a large batch is the sum of its micro-batches'
    (or ranks') parts over the sum of their normalizers, at least 1; the mean of their losses would be another number.
    """

    parts: dict[str, Tensor]
    normalizer: Tensor

    def sum(self) -> Tensor:
        """All parts together, not normalized."""
        return torch.stack(list(self.parts.values())).sum()

    def total(self) -> Tensor:
        """The loss if this is the whole batch: all parts over the normalizer, at least 1."""
        return self.sum() / self.normalizer.clamp(min=1)


@runtime_checkable
class LabelLoss(Protocol):
    """A loss of class logits ``[B, C, *spatial]``, some of them more than once, against labels ``[B, *spatial]``."""

    def __call__(self, raw: Any, labels: Tensor, /) -> LossSum:
        """The raw output of a network against uint8 class positions, ``IGNORE_INDEX`` where there is none."""


@runtime_checkable
class LabelLossConfig(Protocol):
    """A frozen dataclass, what every entry of ``SEGMENTATION_LOSSES`` and ``VOLUME_LOSSES`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, num_classes: int) -> LabelLoss:
        """The loss for so many classes.

        Raises:
            ValueError: the settings do not fit their number.
        """
