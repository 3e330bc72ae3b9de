"""The value that every loss returns."""

from __future__ import annotations

from dataclasses import dataclass

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
