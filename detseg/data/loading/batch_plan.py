"""Which samples form which batch, at which size: pure functions of the seed, the epoch and the batch number.

There is no state to save: a run that stopped after ``s`` batches of an epoch goes on with batch ``s`` of the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detseg.arrays import IntArray

# The fourth word of the seed keeps these draws apart from each other and from those of augmentation, which has three.
# It must not be zero: numpy fills short seeds up with zeros.
_ORDER_STREAM = 1
_SIZE_STREAM = 2


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One batch on one rank, before anything is loaded: ``indices`` of its samples and, in training, its ``size``
    (height, width, or depth before both) and the ``partners`` of each sample, itself among them: the samples that it
    may be combined with. Without them these are all that there are."""

    epoch: int
    indices: tuple[int, ...]
    size: tuple[int, ...] = ()
    close_mosaic: bool = False
    partners: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """The batches of every epoch of a training run.

    ``batch_size`` counts the images of all ranks together: rank ``r`` of ``world_size`` gets the ``r``-th part of every
    batch, so that the ranks together see what a single process would. All ranks have equally many batches, and every
    sample is in one of them: where they do not come out even, all batches are a little smaller, by at most one sample
    more or less than each other, so that none is left with a few.

    ``multi_scale``: factors (smallest, largest) for one random size per batch, rounded to multiples of ``stride``.
    From epoch ``close_mosaic_from`` on, batches are marked as those that mosaic and mixup are off for.

    ``neighborhood``: the order of an epoch is cut into runs of about so many samples, at the borders of batches and of
    the parts of ranks where it can be; samples of one run are partners of each other, whoever loads them. So most
    partners of a sample are in its own batch, and are loaded for that anyway.

    Raises:
        ValueError: for a batch size, size, rank or seed that is not possible; the message says what is.
    """

    num_samples: int
    batch_size: int
    seed: int
    size: tuple[int, ...]
    stride: int = 32
    rank: int = 0
    world_size: int = 1
    multi_scale: tuple[float, float] | None = None
    close_mosaic_from: int | None = None
    neighborhood: int | None = None

    def __post_init__(self) -> None:
        require_rank(self.rank, self.world_size)
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size counts the images of all processes together and must be a positive multiple of their "
                f"number, {self.world_size}; got {self.batch_size}"
            )
        if self.num_samples < self.batch_size:
            raise ValueError(
                f"the training set has {self.num_samples} images, which does not fill a single batch of "
                f"{self.batch_size}; set batch_size to {self.num_samples} or less, or add images"
            )
        if self.num_samples < self.world_size * self.batches_per_epoch:
            raise ValueError(
                f"{self.num_samples} images in {self.batches_per_epoch} batches give some of {self.world_size} "
                "processes none; set a larger batch_size, or use fewer processes"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        if self.stride < 1 or min(self.size) < 1 or any(side % self.stride for side in self.size):
            raise ValueError(
                f"the sides of the input must be positive multiples of the stride, {self.stride}; "
                f"got {'x'.join(map(str, self.size))}"
            )
        if self.multi_scale is not None and not 0 < self.multi_scale[0] <= self.multi_scale[1]:
            raise ValueError(f"multi_scale must be two factors, 0 < smallest <= largest; got {self.multi_scale}")

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches on each rank."""
        return -(-self.num_samples // self.batch_size)

    @property
    def largest_batch(self) -> int:
        """The most samples in a batch of all ranks together."""
        return -(-self.num_samples // self.batches_per_epoch)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[PlannedBatch]:
        """The batches of this rank in ``epoch``, from number ``start_batch`` on."""
        order = epoch_order(self.num_samples, self.seed, epoch)
        num_parts = self.batches_per_epoch * self.world_size
        close_mosaic = self.close_mosaic_from is not None and epoch >= self.close_mosaic_from
        for batch in range(start_batch, self.batches_per_epoch):
            part = batch * self.world_size + self.rank
            start, stop = (self.num_samples * bound // num_parts for bound in (part, part + 1))
            indices = tuple(order[start:stop].tolist())
            partners = () if close_mosaic else self._partners(order, start, stop)
            yield PlannedBatch(epoch, indices, self.size_of(epoch, batch), close_mosaic, partners)

    def _partners(self, order: IntArray, start: int, stop: int) -> tuple[tuple[int, ...], ...]:
        """The partners of the samples at the positions ``start`` to ``stop`` of an epoch."""
        if self.neighborhood is None:
            return ()
        num_runs = self._num_runs(self.neighborhood)
        found: list[tuple[int, ...]] = []
        while len(found) < stop - start:
            position = start + len(found)
            # The run that holds it: the last one that begins at or before it.
            run = ((position + 1) * num_runs - 1) // self.num_samples
            first, last = (self.num_samples * bound // num_runs for bound in (run, run + 1))
            found += [tuple(order[first:last].tolist())] * (min(last, stop) - position)
        return tuple(found)

    def _num_runs(self, neighborhood: int) -> int:
        """A multiple of the number of batches, or the other way round, so that borders fall together."""
        if self.batch_size >= neighborhood:
            return self.batches_per_epoch * (self.batch_size // neighborhood)
        return max(1, self.batches_per_epoch // -(-neighborhood // self.batch_size))

    def size_of(self, epoch: int, batch: int) -> tuple[int, ...]:
        """The input size of a batch, the same on every rank."""
        if self.multi_scale is None:
            return self.size
        factor = np.random.default_rng([self.seed, epoch, batch, _SIZE_STREAM]).uniform(*self.multi_scale)
        return tuple(max(1, round(side * factor / self.stride)) * self.stride for side in self.size)


def epoch_order(num_samples: int, seed: int, epoch: int) -> IntArray:
    """The order of the samples in an epoch: a permutation ``[num_samples]`` that only the seed and the epoch decide."""
    return np.random.default_rng([seed, epoch, 0, _ORDER_STREAM]).permutation(num_samples)


def eval_batches(num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[PlannedBatch]:
    """Every sample exactly once over all ranks, in order; a rank gets one run of them, none if there are too few.

    Raises:
        ValueError: for a batch size or rank that is not possible.
    """
    require_rank(rank, world_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    start, stop = (num_samples * bound // world_size for bound in (rank, rank + 1))
    return [
        PlannedBatch(0, tuple(range(first, min(first + batch_size, stop)))) for first in range(start, stop, batch_size)
    ]


def require_rank(rank: int, world_size: int) -> None:
    """Check the place of a process among all.

    Raises:
        ValueError: unless 0 <= rank < world_size.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, got rank {rank} of {world_size}")
