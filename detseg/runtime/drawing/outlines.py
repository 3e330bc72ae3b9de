"""The outlines of masks along the edges of their pixels, so that they enclose these and nothing else."""

from __future__ import annotations

import numpy as np

from detseg.arrays import BoolArray, IntArray

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Right, down, left and up, as x and y; the object is at the right hand."""


def trace_outlines(mask: BoolArray) -> list[IntArray]:
    """Closed lines around the parts of ``mask`` ``[H, W]`` and around the holes in them, each ``[P, 2]``: x and y of
    its corners, (0, 0) being the top left corner of the first pixel. Pixels that touch only at a corner are two
    parts."""
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.bool_)
    padded[1:-1, 1:-1] = mask
    below, above = padded[1:, 1:-1], padded[:-1, 1:-1]
    right, left = padded[1:-1, 1:], padded[1:-1, :-1]
    # Sides of pixels between inside and outside, by the corner of the raster that they start at.
    leaves = np.zeros((4, height + 1, width + 1), np.bool_)
    leaves[0, :, :-1] = below & ~above
    leaves[1, :-1, :] = left & ~right
    leaves[2, :, 1:] = above & ~below
    leaves[3, 1:, :] = right & ~left
    sides = np.flatnonzero(leaves)
    direction, y, x = np.unravel_index(sides, leaves.shape)
    number = np.full(leaves.shape, -1, np.int32)
    number.reshape(-1)[sides] = np.arange(len(sides))
    end_x, end_y = x + _STEPS[direction, 0], y + _STEPS[direction, 1]
    following = np.full(len(direction), -1)
    # Where two sides go on, the right turn stays with the same pixel.
    for turn in (1, 0, 3):
        candidate = number[(direction + turn) % 4, end_y, end_x]
        following = np.where(following < 0, candidate, following)
    return _loops(following.tolist(), direction, np.stack([x, y], axis=1))


def joined_outline(mask: BoolArray) -> IntArray:
    """All lines of :func:`trace_outlines` as one ``[P, 2]``, for forms that have room for no more: each is reached from
    the one before on a straight line, and all of these are taken a second time on the way back, which adds nothing to
    what is inside. An empty mask has none."""
    loops = trace_outlines(mask)
    if not loops:
        return np.empty((0, 2), np.int64)
    if len(loops) == 1:
        return loops[0]
    closed = [np.concatenate([loop, loop[:1]]) for loop in loops]
    back = [loop[:1] for loop in loops[-2:0:-1]]
    return np.concatenate([*closed, *back])


def _loops(following: list[int], direction: IntArray, starts: IntArray) -> list[IntArray]:
    """The corners of the lines that the sides make, each side being followed by another."""
    loops = []
    done = [False] * len(following)
    for first in range(len(following)):
        if done[first]:
            continue
        loop, side = [], first
        while not done[side]:
            done[side] = True
            loop.append(side)
            side = following[side]
        sides = np.array(loop)
        turns = direction[sides] != np.roll(direction[sides], 1)
        loops.append(starts[sides[turns]])
    return loops
