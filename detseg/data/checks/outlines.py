"""What can be wrong with the outlines of objects: polygons and masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray
from detseg.data.entries.outline import rasterize, runs_of_outline
from detseg.data.findings import Finding
from detseg.data.records import BoxRecords

OVERHANG = 0.5
"""Pixels that an outline may reach outside of its image before it is worth a word: rounding, not a mistake."""
_APART = 2.0
_APART_SHARE = 0.05
"""A box and its outline may lie so many pixels apart, or this share of the longer side, before that is worth a word."""
_TINY = 4.0
"""Square pixels of the box around an outline from which on it surely covers a pixel."""


def check_outlines(split: BoxRecords, paths: Sequence[Path], upright: Collection[int] = ()) -> Iterator[Finding]:
    """The findings D010 to D013, and D007 for masks that cannot be used, about the outlines of ``split``, whose images
    are ``paths``.

    They are held against the size that the annotation records; for the images ``upright`` with the sides swapped.
    Images without a size are passed over. Boxes do without outlines, so what cannot be used is an error only where
    instances are learned.
    """
    packed = split.packed
    unusable = {"instances": "D013"}.get(split.target, "D007")
    for image, path in enumerate(paths):
        height, width = int(packed.heights[image]), int(packed.widths[image])
        size = (width, height) if image in upright else (height, width)
        rows = packed.rows(image)
        for row in range(rows.start, rows.stop) if min(size) else ():
            outline = packed.segmentations[row]
            if outline is None:
                continue
            box_xywh = packed.boxes_xywh[row]
            found = (
                _judge_mask(outline, box_xywh, size, unusable)
                if isinstance(outline, dict)
                else _judge_polygons(outline, box_xywh, size)
            )
            for code, message in found:
                number = int(packed.annotation_ids[row])
                yield Finding(code, str(split.sources[image]), f"{message} in {path.name}", (number,), split.name)


def _judge_mask(
    outline: dict[str, Any], box_xywh: DoubleArray, size: tuple[int, int], unusable: str
) -> Iterator[tuple[str, str]]:
    try:
        runs = runs_of_outline(outline, *size)
    except ValueError as error:
        yield unusable, str(error)
        return
    if not runs.area:
        yield "D010", "the mask holds no pixel,"
        return
    yield from _judge_distance(runs.box_xywh, box_xywh, "mask")


def _judge_polygons(
    polygons: list[DoubleArray], box_xywh: DoubleArray, size: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    counts = [len(polygon) for polygon in polygons]
    if min(counts) < 3:
        yield "D010", f"a polygon of {min(counts)} corners, where 3 are the least that enclose anything,"
    if max(counts) < 3:
        return
    points = np.concatenate([polygon for polygon in polygons if len(polygon) > 2])
    first, last = points.min(axis=0), points.max(axis=0)
    if (last - first).prod() < _TINY and not rasterize(polygons, *size).area:
        yield "D010", f"the outline around {_show(first)} encloses the middle of no pixel"
        return
    overhang = float(max(-first.min(), last[0] - size[1], last[1] - size[0]))
    if overhang > OVERHANG:
        yield "D011", f"the outline reaches {overhang:g} pixels outside of the image, {size[1]}x{size[0]},"
    yield from _judge_distance(np.concatenate([first, last - first]), box_xywh, "outline")


def _judge_distance(around_xywh: DoubleArray, box_xywh: DoubleArray, what: str) -> Iterator[tuple[str, str]]:
    """D012 where the box around an outline is not the one that is annotated."""
    corners = [np.concatenate([box[:2], box[:2] + box[2:]]) for box in (around_xywh, box_xywh)]
    distance = float(np.abs(corners[0] - corners[1]).max())
    if distance > max(_APART, _APART_SHARE * float(max(box_xywh[2:].max(), around_xywh[2:].max()))):
        yield (
            "D012",
            f"the {what} lies within {_show(corners[0])}, the box is {_show(corners[1])}, {distance:.3g} apart,",
        )


def _show(values: DoubleArray) -> str:
    return f"({', '.join(f'{value:g}' for value in values.round(2))})"
