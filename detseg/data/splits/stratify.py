"""Dividing groups of images so that every split has its share of every class: pure functions on counts.

Shapes: G groups (images that must stay together), C classes, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray, IntArray


def stratify(num_boxes: IntArray | DoubleArray, num_images: IntArray, sizes: Sequence[int]) -> IntArray:
    """Assign every group to a split, after Sechidis et al., On the Stratification of Multi-label Data (ECML 2011).

    ``num_boxes`` ``[G, C]``, or whatever else there is of each class, and ``num_images`` ``[G]`` belong to the groups,
    whose order decides ties (shuffle them for another split_rule); ``sizes`` ``[S]`` are the images that each split
    shall get. The rarest class is dealt first, each group to the split that has none or lacks most of it. Both the
    images with a class and its boxes are balanced: a class may have most of its boxes in one crowded image. Sizes are
    met exactly unless groups of several images make that impossible. Returns ``[G]``, positions of splits.
    """
    counts = np.hstack([num_boxes > 0, num_boxes]).astype(np.float64)
    dealer = _Dealer(counts, num_images, np.asarray(sizes, np.int64))
    for together in (num_images > 1, num_images == 1):
        dealer.deal(together)
    dealer.exchange()
    return dealer.assignment


class _Dealer:
    """The state of one split: what every split still lacks, of images and of every column of ``counts``."""

    def __init__(self, counts: DoubleArray, num_images: IntArray, sizes: IntArray) -> None:
        self.counts = counts
        self.num_images = num_images
        self.assignment = np.full(len(num_images), -1, np.int64)
        self.lacking_images = sizes.copy()
        self.num_groups = np.zeros(len(sizes), np.int64)
        totals = counts.sum(0)
        self.wanted_counts: DoubleArray = np.outer(sizes / sizes.sum(), totals)
        self.lacking_counts = self.wanted_counts.copy()
        self.weights = 1.0 / np.maximum(totals, 1)
        # What is in as many groups as there are splits, or more, shall be in all of them.
        self.can_be_everywhere = (counts > 0).sum(0) >= len(sizes)

    def deal(self, eligible: NDArray[np.bool_]) -> None:
        """Assign the eligible groups, those of the rarest class first, those without objects last."""
        while True:
            waiting = eligible & (self.assignment < 0)
            groups_by_column = (self.counts[waiting] > 0).sum(0)
            present = np.flatnonzero(groups_by_column)
            if not len(present):
                break
            column = present[np.argmin(groups_by_column[present])]
            members = np.flatnonzero(waiting & (self.counts[:, column] > 0))
            for group in members[self._largest_first(members, self.counts[members, column])]:
                self._give(group, column)
        empty = np.flatnonzero(eligible & (self.assignment < 0))
        for group in empty[self._largest_first(empty, np.zeros(len(empty)))]:
            self._give(group)

    def exchange(self, num_rounds: int = 4) -> None:
        """Swap single images between splits while that brings the counts nearer to their shares.

        Dealing looks at one count at a time; the others may have drifted. Every image is offered one swap per round:
        the best of 128 partners, of fewer in large data sets, which need it less.
        """
        singles = np.flatnonzero(self.num_images == 1)
        num_partners = int(np.clip(400_000 // max(1, len(singles)), 8, 128))
        for number in range(num_rounds):
            improved = False
            for position, group in enumerate(singles):
                first = (position + number * num_partners) % len(singles)
                partners = singles[np.arange(first, first + min(num_partners, len(singles))) % len(singles)]
                improved |= self._swap_best(group, partners[self.assignment[partners] != self.assignment[group]])
            if not improved:
                break

    def _swap_best(self, group: Any, partners: IntArray) -> bool:
        if not len(partners):
            return False
        own = self.assignment[group]
        others = self.assignment[partners]
        moved = self.counts[group] - self.counts[partners]
        before = self._imbalance(own, 0) + self._imbalance(others, 0)
        after = self._imbalance(own, moved) + self._imbalance(others, -moved)
        best = int(np.argmin(after - before))
        if after[best] - before[best] >= -1e-9:
            return False
        self.lacking_counts[own] += moved[best]
        self.lacking_counts[others[best]] -= moved[best]
        self.assignment[group], self.assignment[partners[best]] = others[best], own
        return True

    def _imbalance(self, splits: Any, change: Any) -> Any:
        """How bad splits are when they lack ``change`` more; a class that is needlessly absent counts most."""
        lacking = self.lacking_counts[splits] + change
        return (lacking**2 * self.weights).sum(-1) + self._absent(splits, change).sum(-1)

    def _absent(self, splits: Any, change: Any = 0) -> NDArray[np.bool_]:
        has_none = self.lacking_counts[splits] + change >= self.wanted_counts[splits] - 1e-9
        return np.asarray(has_none & self.can_be_everywhere)

    def _largest_first(self, groups: IntArray, counts: DoubleArray) -> IntArray:
        return np.lexsort((np.arange(len(groups)), -counts, -self.num_images[groups])).astype(np.int64)

    def _give(self, group: Any, column: Any = None) -> None:
        """Put a group into the split with room that needs its ``column``, or else any image, most."""
        fits = self.lacking_images >= self.num_images[group]
        if not fits.any():
            fits = self.lacking_images == self.lacking_images.max()
        is_empty = self.num_groups == 0
        if len(self.assignment) - self.num_groups.sum() <= is_empty.sum():
            fits = is_empty  # large groups have taken more than their room

        def need(split: Any) -> tuple[bool, float, int]:
            if column is None:
                return False, 0.0, self.lacking_images[split]
            return self._absent(split)[column], self.lacking_counts[split, column], self.lacking_images[split]

        split = max(np.flatnonzero(fits), key=need)
        self.assignment[group] = split
        self.num_groups[split] += 1
        self.lacking_images[split] -= self.num_images[group]
        self.lacking_counts[split] -= self.counts[group]
