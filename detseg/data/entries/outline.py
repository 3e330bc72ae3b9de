"""Outlines of objects as annotation files have them: polygons, or COCO's run-length masks; and as masks, pixel by pixel
those that COCO's own program makes of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.data.entries.parsing import MAX_COORDINATE, is_coordinate, show
from detseg.run_lengths import RunLengths

Segmentation = list[DoubleArray] | dict[str, Any] | None
"""Polygons ``[P, 2]`` in pixels, a run-length mask as COCO's mapping, or neither."""

_FINENESS = 5
"""Steps of the boundary per pixel."""


def parse_outline(value: Any) -> tuple[list[list[float]], dict[str, Any] | None, str]:
    """The polygons and the run-length mask in ``segmentation``, and what is wrong with it; boxes need neither."""
    if not value:
        return [], None, ""
    if isinstance(value, dict) and {"counts", "size"} <= set(value):
        return [], value, ""
    if isinstance(value, list):
        # One polygon alone, without the list around it.
        polygons = value if isinstance(value[0], list) else [value]
        if all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
            return polygons, None, ""
    return [], None, f"segmentation must be lists of x, y, ... or {{counts, size}}, got {show(value)}"


def as_points(polygons: Sequence[Sequence[float]]) -> tuple[list[array[float]], str]:
    """The polygons as arrays, or none and why they cannot be used."""
    outline = []
    for polygon in polygons:
        try:
            points = array("d", polygon)
        except (TypeError, OverflowError) as error:
            return [], f"the outline must hold numbers only: {error}"
        # The sum of what is no number is none either.
        if points and not (max(map(abs, points)) < MAX_COORDINATE and math.isfinite(sum(points))):
            return [], f"the outline must hold finite numbers under {MAX_COORDINATE:g}, got {show(polygon)}"
        outline.append(points)
    return outline, ""


def box_around(polygons: Sequence[Sequence[float]]) -> list[float] | None:
    """Left, top, width and height of what is around the polygons; None where these hold something else."""
    points = [value for polygon in polygons for value in polygon]
    if len(points) < 2 or not all(map(is_coordinate, points)):
        return None
    left, top = min(points[::2]), min(points[1::2])
    return [left, top, max(points[::2]) - left, max(points[1::2]) - top]


def runs_of_outline(outline: Segmentation, height: int, width: int) -> RunLengths:
    """The mask of an object in an image of ``height`` x ``width`` pixels; several polygons are parts of one.

    Raises:
        ValueError: there is no outline, or it is a mask of another size, or none at all.
    """
    if outline is None:
        raise ValueError("the object has no outline")
    if isinstance(outline, dict):
        runs = RunLengths.from_coco(outline)
        if (runs.height, runs.width) != (height, width):
            raise ValueError(
                f"the mask is of {runs.width}x{runs.height} pixels, but its image has {width}x{height}; size is "
                "[height, width]"
            )
        return runs
    return rasterize(outline, height, width)


def rasterize(polygons: Sequence[DoubleArray], height: int, width: int) -> RunLengths:
    """What the ``polygons``, each ``[P, 2]`` float64 x and y in pixels, cover together in an image of this size.

    Pixels are those that the masks of pycocotools have. Each boundary is followed in steps of a fifth of a pixel; in
    every column, where it passes the middle of the column, inside and outside change places, and a pixel is inside if
    its middle is, give or take that step. A polygon of fewer than three corners covers nothing.
    """
    parts = [_inside(polygon, height, width) for polygon in polygons if len(polygon) > 2]
    starts = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
    ends = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])
    return RunLengths.from_intervals(height, width, starts, ends)


def _inside(polygon: DoubleArray, height: int, width: int) -> tuple[IntArray, IntArray]:
    """Where the runs of one polygon start and end, down the columns."""
    x, y = _boundary(np.trunc(_FINENESS * polygon.astype(np.float64) + 0.5).astype(np.int64))
    passes = np.flatnonzero(x[1:] != x[:-1])
    # Between two steps the boundary is at the left one, in the middle of a pixel's column where it is two steps in.
    column, rest = np.divmod(np.minimum(x[passes], x[passes + 1]) - _FINENESS // 2, _FINENESS)
    counts = (rest == 0) & (column >= 0) & (column < width)
    row = np.clip((np.minimum(y[passes], y[passes + 1]) + 0.5) / _FINENESS - 0.5, 0, height)
    places, numbers = np.unique(column[counts] * height + np.ceil(row[counts]).astype(np.int64), return_counts=True)
    # A place that is passed twice changes nothing, nor does one behind the last pixel.
    changes = places[(numbers % 2 == 1) & (places < height * width)]
    if len(changes) % 2:
        changes = np.append(changes, height * width)
    return changes[::2], changes[1::2]


def _boundary(corners: IntArray) -> tuple[IntArray, IntArray]:
    """Every step of the boundary through ``corners`` ``[P, 2]`` and back to the first, as x and y ``[K]``.

    An edge has a step for each unit of its longer extent; the other coordinate is rounded, always from the same end,
    so that the edge is the same from either side.
    """
    first, last = corners, np.roll(corners, -1, axis=0)
    extent = np.abs(last - first)
    is_flat = extent[:, 0] >= extent[:, 1]
    along = np.where(is_flat, 0, 1)
    edges = np.arange(len(corners))
    is_backward = first[edges, along] > last[edges, along]
    start = np.where(is_backward[:, None], last, first)
    across = 1 - along
    length = extent[edges, along]
    rise = np.where(is_backward[:, None], first, last)[edges, across] - start[edges, across]
    slope = rise / np.maximum(length, 1)
    edge = np.repeat(edges, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(is_backward[edge], length[edge] - step, step)
    exact = start[edge, along[edge]] + step
    rounded = np.trunc(start[edge, across[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(is_flat[edge], exact, rounded), np.where(is_flat[edge], rounded, exact)
