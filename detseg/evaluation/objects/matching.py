"""Which box stands for which object: the one matching that curves, confusion and errors are counted from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.structures import Detections, GroundTruth

Overlaps = Callable[[Detections, GroundTruth], DoubleArray]
"""Says ``[D, G]`` how far what was found and the objects of one image overlap, as :func:`overlaps_of` does of boxes."""

MATCH_IOU = 0.5
"""A box that overlaps an object of its class by so much stands for it."""


@dataclass(frozen=True, slots=True)
class Match:
    """The D boxes of one image beside its G objects, crowd regions among them.

    ``objects`` ``[D]`` int64: the object that a box stands for, -1 where there is none; ``in_crowd`` ``[D]`` bool: it
    stands for none and lies in a crowd region of its class, so that it does not count; ``overlaps`` ``[D, G]``: the
    IoU, with a crowd region the share of the box that lies in it.
    """

    objects: IntArray
    in_crowd: BoolArray
    overlaps: DoubleArray


def match_boxes(
    found: Detections,
    truth: GroundTruth,
    iou: float = MATCH_IOU,
    measure: Overlaps | None = None,
) -> Match:
    """Match boxes that are sorted by score, the best first, with objects as COCO does it: each takes the object of its
    class that it overlaps most (the last of equals), by at least ``iou``, and that no better box has taken.

    What a box gets does not depend on boxes of a lower score, so the boxes above any confidence are matched alike.
    ``measure`` says ``[D, G]`` how far they overlap, where that is not the IoU of boxes.
    """
    overlaps = (measure or overlaps_of)(found, truth)
    candidates = (found.labels[:, None] == truth.labels) & (overlaps >= iou) & (overlaps > 0)
    objects = np.full(len(found), -1, np.int64)
    free = ~truth.crowd
    # Most boxes of a low score overlap nothing so far.
    for row in np.flatnonzero((candidates & ~truth.crowd).any(axis=1)).tolist():
        possible = np.flatnonzero(candidates[row] & free)[::-1]
        if len(possible):
            objects[row] = possible[overlaps[row, possible].argmax()]
            free[objects[row]] = False
    in_crowd = (objects < 0) & (candidates & truth.crowd).any(axis=1)
    return Match(objects, in_crowd, overlaps)


def overlaps_of(found: Detections, truth: GroundTruth) -> DoubleArray:
    """The IoU ``[D, G]`` of boxes with objects; with a crowd region the share of the box that lies in it."""
    found_xyxy = found.boxes_xyxy.astype(np.float64)
    intersection = intersections(found_xyxy, truth.boxes_xyxy)
    found_areas = areas(found_xyxy)[:, None]
    whole = np.where(truth.crowd, found_areas, found_areas + areas(truth.boxes_xyxy) - intersection)
    share: DoubleArray = np.divide(intersection, whole, out=np.zeros_like(intersection), where=whole > 0)
    return share


def intersections(first_xyxy: DoubleArray, second_xyxy: DoubleArray) -> DoubleArray:
    """Boxes ``[N, 4]`` and ``[M, 4]`` in pixels -> the areas that they share ``[N, M]``."""
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[:, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[:, 2:])
    area: DoubleArray = (high - low).clip(min=0).prod(axis=2)
    return area


def areas(boxes_xyxy: DoubleArray) -> DoubleArray:
    """Boxes ``[N, 4]`` in pixels -> their areas ``[N]``; 0 where a side is negative."""
    area: DoubleArray = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=0).prod(axis=1)
    return area
