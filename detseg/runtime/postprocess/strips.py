"""Which parts of a volume are looked at one after the other, so that sums over windows fit in a given memory.

A part is a box of the grid of the file, with its axes as in the input, and the box of the input that it is made of.
Where these grids differ, neighbors share the planes of the input between which the border lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from detseg.arrays import FloatArray, IntArray
from detseg.runtime.inputs.volume_boxes import Box, Span
from detseg.runtime.inputs.volume_geometry import nearest_two, resampling_order
from detseg.runtime.postprocess.inferers import window_starts
from detseg.volumes import Shape3, VolumeTransform


@dataclass(frozen=True)
class OutputGrid:
    """How the grid of the file is made of that of the input, axis by axis: ``tables`` of those that differ, positions
    and weights of the two nearest, and the ``order`` in which these are resampled."""

    shape: Shape3
    input_shape: Shape3
    order: tuple[int, ...]
    tables: dict[int, tuple[IntArray, FloatArray]]

    @classmethod
    def of(cls, transform: VolumeTransform) -> OutputGrid:
        """That of the file that ``transform`` leads back to."""
        old, new = transform.input_shape, transform.oriented_shape
        order = resampling_order(old, new)
        return cls(new, old, tuple(order), {axis: nearest_two(old[axis], new[axis]) for axis in order})

    def needed(self, axis: int, span: Span) -> Span:
        """What positions ``span`` of the file need of the input."""
        if axis not in self.tables:
            return span
        positions, _ = self.tables[axis]
        return int(positions[0, span[0]]), int(positions[1, span[1] - 1]) + 1

    def table(self, axis: int, span: Span, first: int) -> tuple[IntArray, FloatArray]:
        """The table for positions ``span``, of an array that begins with position ``first`` of the input."""
        positions, weights = self.tables[axis]
        return positions[:, slice(*span)] - first, weights[:, slice(*span)]

    def _first_above(self, axis: int, place: int) -> int:
        """The first position in the file that needs nothing of the input before ``place``."""
        if axis not in self.tables:
            return place
        return int(np.searchsorted(self.tables[axis][0][0], place))

    def divisions(self, axis: int, window: int, overlap: float) -> Iterator[list[Span]]:
        """Spans of the file along ``axis`` in 1, 2, 3, ... parts; their borders are where windows begin."""
        starts = window_starts(self.input_shape[axis], window, overlap)
        for count in range(1, len(starts) + 1):
            inner = {starts[round(part * len(starts) / count)] for part in range(1, count)}
            borders = {0, *(self._first_above(axis, place) for place in inner), self.shape[axis]}
            yield list(pairwise(sorted(borders)))


@dataclass(frozen=True)
class Part:
    """The box ``into`` of the file, made of the box ``of`` of the input."""

    into: Box
    of: Box


def origins(length: int, window: int, overlap: float, is_mirrored: bool) -> list[int]:
    """Where windows begin along an axis of ``length``, in the order in which they are added up; those of the mirror
    image are given in the image itself. A window that is longer than the axis begins before it."""
    before = max(0, window - length) // 2
    places = [start - before for start in window_starts(length, window, overlap)]
    return [length - window - place for place in places] if is_mirrored else places


def meets(origin: int, window: int, span: Span) -> bool:
    """Whether a window that begins at ``origin`` covers a position in ``span``."""
    return origin < span[1] and origin + window > span[0]


def divide(
    grid: OutputGrid, window: Shape3, overlap: float, bytes_each: int, allowed_bytes: float, *, along_depth: bool
) -> list[Part]:
    """Parts of which none has sums of more than ``allowed_bytes``, if that can be, and whose windows are as few as can
    be. ``bytes_each`` are taken for each voxel that sums are held of: all of a part, or where parts are not divided
    ``along_depth``, those of one window in depth."""
    choices = []
    for axis in range(3):
        found = list(grid.divisions(axis, window[axis], overlap)) if axis or along_depth else [[(0, grid.shape[0])]]
        own = origins(grid.input_shape[axis], window[axis], overlap, is_mirrored=False)
        choices.append([_Choice(spans, *_cost(grid, axis, spans, own, window[axis])) for spans in found])

    def size(chosen: Sequence[_Choice]) -> int:
        lengths = [one.longest for one in chosen]
        return bytes_each * math.prod(lengths if along_depth else [window[0], *lengths[1:]])

    def effort(chosen: Sequence[_Choice]) -> tuple[float, int, int]:
        over = max(0, size(chosen) - allowed_bytes)
        return over, math.prod(one.num_windows for one in chosen), math.prod(len(one.spans) for one in chosen)

    best = min(product(*choices), key=effort)
    parts = []
    for depth, height, width in product(*(one.spans for one in best)):
        of = grid.needed(0, depth), grid.needed(1, height), grid.needed(2, width)
        parts.append(Part((depth, height, width), of))
    return parts


@dataclass(frozen=True)
class _Choice:
    spans: list[Span]
    longest: int
    num_windows: int


def _cost(grid: OutputGrid, axis: int, spans: Sequence[Span], own: Sequence[int], window: int) -> tuple[int, int]:
    needed = [grid.needed(axis, span) for span in spans]
    num_windows = sum(meets(origin, window, span) for span in needed for origin in own)
    return max(end - first for first, end in needed), num_windows
