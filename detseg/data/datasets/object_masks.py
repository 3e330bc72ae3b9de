"""Masks of objects as training samples have them: one array for all, of which only what is covered takes memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import BoolArray, IntArray
from detseg.run_lengths import RunLengths


def draw_masks(runs: Sequence[RunLengths], size: tuple[int, int]) -> tuple[BoolArray, BoolArray]:
    """The masks ``[N, H, W]`` of ``runs`` in an image of ``size`` (height, width), which may be smaller than the one
    they are of, and whether there is anything in them ``[N]``; a pixel is what the one at its middle is."""
    # The system gives zeros as memory that is taken page by page when it is written to.
    masks = np.zeros((len(runs), *size), np.bool_)
    filled = np.zeros(len(runs), np.bool_)
    for mask, number, one in zip(masks, range(len(runs)), runs, strict=True):
        crop, left, top = one.to_crop()
        rows, crop_rows = _seen(size[0], one.height, top, crop.shape[0])
        columns, crop_columns = _seen(size[1], one.width, left, crop.shape[1])
        part = crop[crop_rows[:, None], crop_columns]
        mask[rows, columns] = part
        filled[number] = part.any()
    return masks, filled


def _seen(side: int, full_side: int, first: int, length: int) -> tuple[slice, IntArray]:
    """Which of ``side`` pixels show some of ``length`` of ``full_side`` from ``first`` on, and which each shows."""
    shown = ((np.arange(side) + 0.5) * full_side / side).astype(np.int64) - first if side else np.empty(0, np.int64)
    inside = np.flatnonzero((shown >= 0) & (shown < length))
    if not len(inside):
        return slice(0, 0), inside
    return slice(int(inside[0]), int(inside[-1]) + 1), shown[inside]
