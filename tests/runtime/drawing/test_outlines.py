"""Outlines along the edges of pixels: what they enclose is the mask again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.data.entries.outline import rasterize
from detseg.runtime.drawing.outlines import joined_outline, trace_outlines


def enclosed(loops: list[Any], shape: tuple[int, int]) -> Any:
    """Pixels around whose center the lines go: each has a vertical side to its left that is crossed one way only."""
    winding = np.zeros((shape[0], shape[1] + 1), int)
    for loop in loops:
        for (x, y), (next_x, next_y) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            assert (x == next_x) != (y == next_y), "every side is straight and as long as it can be"
            if x == next_x:
                winding[min(y, next_y) : max(y, next_y), x] += np.sign(next_y - y)
    return np.cumsum(winding, axis=1)[:, :-1]


def test_a_ring() -> None:
    mask = np.ones((4, 5), bool)
    mask[1:3, 2] = False
    outer, hole = trace_outlines(mask)
    assert sorted(map(tuple, outer.tolist())) == [(0, 0), (0, 4), (5, 0), (5, 4)]
    assert sorted(map(tuple, hole.tolist())) == [(2, 1), (2, 3), (3, 1), (3, 3)]
    joined = joined_outline(mask)
    assert len(joined) == 10, "each line is closed, and the way back is the line there"


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    assert [len(loop) for loop in trace_outlines(np.eye(2, dtype=bool))] == [4, 4]
    assert [len(loop) for loop in trace_outlines(~np.eye(3, dtype=bool)[:2, :2])] == [4, 4]


def test_an_empty_mask_has_none() -> None:
    for mask in (np.zeros((3, 4), bool), np.zeros((0, 0), bool)):
        assert trace_outlines(mask) == []
        assert joined_outline(mask).shape == (0, 2)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8, 1.0])
def test_outlines_enclose_the_mask_and_nothing_else(density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        shape = int(rng.integers(1, 20)), int(rng.integers(1, 20))
        mask = rng.random(shape) < density
        winding = enclosed(trace_outlines(mask), shape)
        assert np.array_equal(winding != 0, mask)
        assert np.abs(winding).max(initial=0) <= 1
        assert np.array_equal(rasterize([joined_outline(mask).astype(float)], *shape).to_mask(), mask)
