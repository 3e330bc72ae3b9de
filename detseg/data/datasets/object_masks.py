"""Masks of objects in images that are kept smaller than they are."""

from __future__ import annotations

import numpy as np

from detseg.arrays import IntArray
from detseg.run_lengths import RunLengths


def resized(mask: RunLengths, height: int, width: int) -> RunLengths:
    """``mask`` for a smaller image of ``height`` x ``width`` pixels; a pixel is what the one at its middle is."""
    if (mask.height, mask.width) == (height, width):
        return mask
    crop, left, top = mask.to_crop()
    first_row, rows = _shown(height, mask.height, top, crop.shape[0])
    first_column, columns = _shown(width, mask.width, left, crop.shape[1])
    return RunLengths.from_crop(crop[rows[:, None], columns], first_column, first_row, height, width)


def _shown(side: int, full_side: int, first: int, length: int) -> tuple[int, IntArray]:
    """Of ``side`` pixels the first that shows one of ``length`` of ``full_side`` from ``first`` on, and which of these
    it and its neighbors show."""
    shown = ((np.arange(side) + 0.5) * full_side / max(side, 1)).astype(np.int64) - first
    inside = np.flatnonzero((shown >= 0) & (shown < length))
    return (int(inside[0]) if len(inside) else 0), shown[inside]
