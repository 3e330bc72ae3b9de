"""Masks of objects from prototypes and coefficients (YOLACT, arXiv 1904.02689, equation 1), in pixels of the original
image, in numpy.

The logits of an object are the sum of the prototypes, weighted by its coefficients. They are interpolated (bilinear) at
the center of every pixel of the original image that lies in the object's box; the object is where they are above 0,
which is a probability of one half. Only what its box touches is ever made, and of that some rows at a time, so that
hundreds of objects on a large image need hardly any memory.

Shape legend: N objects, K prototypes of h x w cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detseg.arrays import BoolArray, FloatArray, IntArray
from detseg.run_lengths import RunLengths
from detseg.structures import Detections, Instances, LetterboxTransform

_ROWS_OF_PIXELS = 2**18
"""Pixels that are interpolated at a time: their arithmetic stays in a core's cache."""


@dataclass(frozen=True)
class PrototypeMetadata:
    """How many prototypes a network gives, and the side of their cells in input pixels."""

    count: int
    stride: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.stride < 1:
            raise ValueError(f"count and stride of prototypes must be positive, got {self.count} and {self.stride}")


class Taps(NamedTuple):
    """For pixels ``start`` to ``stop`` along one side of the original image: the cells ``low`` and ``high`` on both
    sides of each pixel's center, and the ``weight`` of ``high``, float32, in [0, 1]."""

    start: int
    stop: int
    low: IntArray
    high: IntArray
    weight: FloatArray


def with_masks(
    found: Detections, coefficients: FloatArray, prototypes: FloatArray, transform: LetterboxTransform, stride: int
) -> Instances:
    """``found`` in the original image, with the masks that their ``coefficients`` ``[N, K]`` make of ``prototypes``
    ``[K, h, w]``, whose cells have sides of ``stride`` input pixels. An object may be left without any pixel.

    Raises:
        ValueError: there are not as many coefficients as prototypes, or not as many rows of them as objects.
    """
    if coefficients.ndim != 2 or prototypes.ndim != 3 or coefficients.shape != (len(found), len(prototypes)):
        raise ValueError(
            f"{len(found)} objects need coefficients [{len(found)}, K] for prototypes [K, h, w], got "
            f"{coefficients.shape} and {prototypes.shape}"
        )
    prototypes = prototypes.astype(np.float32, copy=False)
    masks = tuple(
        _mask(weights, prototypes, box, transform, stride)
        for weights, box in zip(coefficients.astype(np.float32, copy=False), found.boxes_xyxy.tolist(), strict=True)
    )
    boxes = found.boxes_xyxy, found.scores, found.labels, found.track_ids
    return Instances(*boxes, masks, num_left_out=found.num_left_out)


def taps(low: float, high: float, size: int, scale: float, offset: float, stride: int, num_cells: int) -> Taps:
    """Where pixels between ``low`` and ``high`` of a side of ``size`` pixels take their values from, of ``num_cells``
    cells.

    A pixel counts if its center lies between them, at ``low`` but not at ``high``. The center of pixel i is at
    ``((i + 0.5) * scale + offset) / stride - 0.5`` in cells; beyond the first and the last cell these go on.
    """
    start, stop = (min(max(math.ceil(side - 0.5), 0), size) for side in (low, high))
    centers = ((np.arange(start, max(start, stop)) + 0.5) * scale + offset) / stride - 0.5
    centers = np.clip(centers, 0, num_cells - 1)
    first = np.minimum(centers.astype(np.int64), max(num_cells - 2, 0))
    return Taps(
        start,
        max(start, stop),
        first,
        np.minimum(first + 1, num_cells - 1),
        (centers - first).astype(np.float32),
    )


def _mask(
    weights: FloatArray, prototypes: FloatArray, box_xyxy: list[float], transform: LetterboxTransform, stride: int
) -> RunLengths:
    """The mask of one object with these ``weights`` ``[K]``."""
    left, top, right, bottom = box_xyxy
    height, width = transform.original_height, transform.original_width
    _, num_rows, num_columns = prototypes.shape
    x = taps(left, right, width, transform.scale_x, transform.offset_x, stride, num_columns)
    y = taps(top, bottom, height, transform.scale_y, transform.offset_y, stride, num_rows)
    if x.start == x.stop or y.start == y.stop:
        return RunLengths.from_crop(np.zeros((0, 0), np.bool_), 0, 0, height, width)
    rows, columns = slice(int(y.low[0]), int(y.high[-1]) + 1), slice(int(x.low[0]), int(x.high[-1]) + 1)
    cells = prototypes[:, rows, columns]
    logits = (weights @ cells.reshape(len(weights), -1)).reshape(cells.shape[1:])
    return RunLengths.from_crop(_above_zero(logits, x, y), x.start, y.start, height, width)


def _above_zero(logits: FloatArray, x: Taps, y: Taps) -> BoolArray:
    """Whether ``logits`` of cells, interpolated at pixels, are above 0: ``[y.stop - y.start, x.stop - x.start]``; the
    first cells are those of the first pixel."""
    lows, highs = logits[:, x.low - x.low[0]], logits[:, x.high - x.low[0]]
    wide = lows + (highs - lows) * x.weight
    above = np.empty((y.stop - y.start, x.stop - x.start), np.bool_)
    step = max(1, _ROWS_OF_PIXELS // above.shape[1])
    for first in range(0, len(above), step):
        part = slice(first, first + step)
        upper, lower = wide[y.low[part] - y.low[0]], wide[y.high[part] - y.low[0]]
        lower -= upper
        lower *= y.weight[part, None]
        lower += upper
        np.greater(lower, 0, out=above[part])
    return above
