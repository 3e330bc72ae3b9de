"""Batches whose images are drawn on the device that the model is on, not by the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from detseg.augment.packing import pack
from detseg.augment.picture import Planned
from detseg.structures import Sample
from detseg.tasks.base import Batch


@dataclass(frozen=True)
class CollateUndrawn:
    """``collate`` for samples whose images are not drawn yet, which it must not look into."""

    collate: Callable[[Sequence[Sample]], Batch]

    def __call__(self, planned: Sequence[Planned], /) -> Batch:
        """The batch of samples of one size, its images packed."""
        batch = self.collate([one.sample for one in planned])
        return replace(batch, images=batch.images.new_empty(0), undrawn=pack([one.picture for one in planned]))
