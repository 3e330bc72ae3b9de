"""The greedy loop of non-maximum suppression, on whole arrays at a time.

Candidates are taken best first, in windows that grow, so that nothing is spent on those behind the last detection. In a
window the best few settle among themselves; what they suppress leaves the window at once, and so on until it is empty.
Boxes of different classes are not compared where a table of the kept boxes by class saves it.

Shape legend: N candidates, K better boxes, R rows of a table by class, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detseg.arrays import BoolArray, FloatArray, IntArray

# Boxes that settle among themselves at once; also the size of the first window.
_HEAD = 128
_WINDOW_GROWTH = 4
# Kept boxes that a window is compared with before those that they suppress leave it.
_BLOCK = 64
# Pairs of boxes whose arithmetic stays in a core's cache.
_TILE = 32_768
# A pair costs about this many times more through the table by class, where each row is gathered.
_COST_OF_TABLE = 4
# Up to this distance between labels a table has a column for each number; farther ones are numbered anew.
_LARGEST_LABEL = 1_000

_BEFORE: BoolArray = np.triu(np.ones((_HEAD, _HEAD), np.bool_), k=1)


def suppress(
    boxes_xyxy: FloatArray, scores: FloatArray, labels: IntArray, iou: np.float32, max_detections: int
) -> IntArray:
    """The indices of the at most ``max_detections`` boxes that survive, best score first; boxes of one class only meet.

    Their IoU is float32 and ``iou``, at least 0, is what it has to exceed; everything else as in
    :func:`detseg.runtime.postprocess.nms.nms`, which checks the arguments. Work O(N x ``max_detections``), memory O(N).
    """
    order = _rank(scores)
    labels = _small_numbers(labels)
    # Overflow, inf - inf and 0/0 end in an IoU of 0 or NaN, which is not above anything.
    with np.errstate(all="ignore"):
        kept = _RankedBoxes.of(boxes_xyxy, labels, order[:0])
        start, size = 0, _HEAD
        while start < len(order) and len(kept.indices) < max_detections:
            window = _RankedBoxes.of(boxes_xyxy, labels, order[start : start + size])
            window = _not_suppressed(window, kept, iou)
            while len(window.indices) and len(kept.indices) < max_detections:
                survivors = _settle(window.part(0, _HEAD), iou)
                kept = kept.followed_by(survivors)
                window = _not_suppressed(window.part(_HEAD, None), survivors, iou)
            start, size = start + size, size * _WINDOW_GROWTH
    return kept.indices[:max_detections]


class _RankedBoxes(NamedTuple):
    """Boxes, best first: ``geometry`` ``[5, N]`` (right, bottom, -left, -top, area), ``labels``, ``indices`` ``[N]``.

    With two sides negated, those of an intersection are the smaller ones throughout, and its width and height are sums.
    """

    geometry: FloatArray
    labels: IntArray
    indices: IntArray

    @classmethod
    def of(cls, boxes_xyxy: FloatArray, labels: IntArray, indices: IntArray) -> _RankedBoxes:
        corners = boxes_xyxy.take(indices, axis=0).T
        geometry = np.empty((5, len(indices)), np.float32)
        geometry[:2] = corners[2:]
        geometry[2:4] = -corners[:2]
        width, height = geometry[:2] + geometry[2:4]
        geometry[4] = width * height
        return cls(geometry, labels.take(indices), indices)

    def take(self, chosen: BoolArray) -> _RankedBoxes:
        positions = np.flatnonzero(chosen)
        return _RankedBoxes(
            self.geometry.take(positions, axis=1), self.labels.take(positions), self.indices.take(positions)
        )

    def part(self, start: int, stop: int | None) -> _RankedBoxes:
        return _RankedBoxes(self.geometry[:, start:stop], self.labels[start:stop], self.indices[start:stop])

    def followed_by(self, worse: _RankedBoxes) -> _RankedBoxes:
        return _RankedBoxes(
            np.concatenate([self.geometry, worse.geometry], axis=1),
            np.concatenate([self.labels, worse.labels]),
            np.concatenate([self.indices, worse.indices]),
        )


def _rank(scores: FloatArray) -> IntArray:
    """The indices of the scores that are numbers, best first, equal ones by index.

    Sorts integers, score above index: numpy does that several times faster than a stable sort of the scores.
    """
    numbers = np.flatnonzero(~np.isnan(scores))
    bits = (np.float32(0) - scores[numbers]).view(np.int32)  # 0 - x has one zero only, -x has two
    # The bits of floats are ordered like integers, except that those of negative ones descend.
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys: IntArray = (ascending.astype(np.int64) << 32) | numbers
    keys.sort()
    keys &= 0xFFFFFFFF
    return keys


def _small_numbers(labels: IntArray) -> IntArray:
    """Other names for the labels, from 0 on, which can be columns of a table."""
    if len(labels) == 0:
        return labels
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest > _LARGEST_LABEL:
        return np.unique(labels, return_inverse=True)[1]
    return labels - lowest


def _settle(boxes: _RankedBoxes, iou: np.float32) -> _RankedBoxes:
    """Greedy NMS of at most ``_HEAD`` boxes among themselves.

    Iterates ``keep = not suppressed by one that is kept``. A box depends on better ones only, so after i rounds the
    first i are settled and the fixed point is the greedy result; in practice a few rounds do.
    """
    num_boxes = len(boxes.indices)
    suppresses = _suppresses(boxes, boxes, iou)
    suppresses &= _BEFORE[:num_boxes, :num_boxes]
    keep: BoolArray = ~np.any(suppresses, axis=0)
    while True:
        settled: BoolArray = ~np.any(suppresses[keep], axis=0)
        if np.array_equal(settled, keep):
            return boxes.take(keep)
        keep = settled


def _not_suppressed(boxes: _RankedBoxes, better: _RankedBoxes, iou: np.float32) -> _RankedBoxes:
    """Those of ``boxes`` that none of ``better`` suppresses."""
    for start in range(0, len(better.indices), _BLOCK):
        if len(boxes.indices) == 0:
            break
        boxes = boxes.take(~_suppressed(boxes, better.part(start, start + _BLOCK), iou))
    return boxes


def _suppressed(boxes: _RankedBoxes, better: _RankedBoxes, iou: np.float32) -> BoolArray:
    """``[N]``: which of ``boxes`` one of ``better`` suppresses."""
    num_better = len(better.indices)
    num_of_class = np.bincount(better.labels, minlength=int(boxes.labels.max()) + 1)
    num_rows = int(num_of_class.max())
    by_class = num_rows * _COST_OF_TABLE < num_better
    table = _table_by_class(better.labels, num_of_class) if by_class else None
    # The box that fills up the table has no IoU with any.
    padded = np.concatenate([better.geometry, np.full((5, 1), np.nan, np.float32)], axis=1)
    suppressed = np.empty(len(boxes.indices), np.bool_)
    width = _TILE // (num_rows if by_class else num_better)
    for start in range(0, len(suppressed), width):
        tile = boxes.part(start, start + width)
        if table is None:
            suppresses = _suppresses(better, tile, iou)
        else:
            of_same_class = padded.take(table.take(tile.labels, axis=1), axis=1)
            suppresses = _overlap(of_same_class, tile.geometry[:, None], iou)
        suppresses.any(axis=0, out=suppressed[start : start + width])
    return suppressed


def _table_by_class(labels: IntArray, num_of_class: IntArray) -> IntArray:
    """``[R, C]``: the positions of each class in ``labels``, filled up with ``len(labels)``."""
    order = np.argsort(labels)
    grouped = labels[order]
    row = np.arange(len(labels)) - (np.cumsum(num_of_class) - num_of_class)[grouped]
    table = np.full((num_of_class.max(), len(num_of_class)), len(labels))
    table[row, grouped] = order
    return table


def _suppresses(better: _RankedBoxes, worse: _RankedBoxes, iou: np.float32) -> BoolArray:
    """``[K, N]``: whether the first would suppress the second."""
    suppresses = _overlap(better.geometry[:, :, None], worse.geometry[:, None], iou)
    suppresses &= better.labels[:, None] == worse.labels
    return suppresses


def _overlap(first: FloatArray, second: FloatArray, iou: np.float32) -> BoolArray:
    """Whether the IoU is above ``iou``, for the geometry ``[5, ...]`` of two sets of boxes that broadcast."""
    sides = np.minimum(first[:4], second[:4])
    sizes = np.add(sides[:2], sides[2:], out=sides[:2])
    width_exists, height_exists = sizes > 0
    intersection = np.multiply(sizes[0], sizes[1], out=sides[2])
    union = np.add(first[4], second[4], out=sides[3])
    union -= intersection
    above: BoolArray = np.divide(intersection, union, out=union) > iou
    above &= width_exists
    above &= height_exists
    return above
