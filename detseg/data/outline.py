"""Outlines of objects as annotation files have them: polygons, or COCO's run-length masks."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

from detseg.arrays import DoubleArray
from detseg.data.parsing import MAX_COORDINATE, is_coordinate, show

Segmentation = list[DoubleArray] | dict[str, Any] | None
"""Polygons ``[P, 2]`` in pixels, a run-length mask as COCO's mapping, or neither."""


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
