"""From a detector's raw maps to boxes and scores, in numpy, for the places that can become detections only.

Shape legend: A anchor points of all levels, S of these selected, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from detseg.arrays import FloatArray, IntArray
from detseg.runtime.postprocess.config import HeadMetadata

_LOGIT_SLACK = 1e-3
"""Places this far below ``confidence`` are decoded as well: the decision is made on scores, which are rounded."""


class Decoded(NamedTuple):
    """Boxes (xyxy, input pixels) ``[S, 4]`` and scores ``[S, C]``, and where among the anchor points they are, ``[S]``
    int64, ascending."""

    boxes_xyxy: FloatArray
    scores: FloatArray
    anchors: IntArray


def decode_above(
    raw: FloatArray, head: HeadMetadata, height: int, width: int, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """The boxes and scores of :func:`decode_places`."""
    boxes_xyxy, scores, _ = decode_places(raw, head, height, width, confidence)
    return boxes_xyxy, scores


def decode_places(raw: FloatArray, head: HeadMetadata, height: int, width: int, confidence: float) -> Decoded:
    """The places with a score above ``confidence``, and maybe a few more.

    ``raw`` ``[channels, A]``, the levels flattened one after the other, for an input of ``height`` x ``width``;
    channels and arithmetic are those of ``detseg.ops.decode``.

    Raises:
        ValueError: the maps are not of this head and this input size.
    """
    points_xy, strides = anchor_points(height, width, head.strides)
    num_box_channels = head.num_box_channels
    if raw.ndim != 2 or raw.shape[1] != len(points_xy) or len(raw) <= num_box_channels:
        raise ValueError(
            f"raw maps of a {head.kind} head must have more than {num_box_channels} channels and {len(points_xy)} "
            f"places for an input of {height}x{width}, got {raw.shape}"
        )
    limit = _logit(confidence) - _LOGIT_SLACK
    # A score is at most its objectness; without one it is the probability of its class.
    best = raw[4] if head.kind == "yolox" else raw[num_box_channels:].max(axis=0)
    # Written so that a NaN is selected: whether it drops its place is decided later, where all scores are looked at.
    chosen = np.nonzero(~(best < limit))[0]
    selected = raw[:, chosen].astype(np.float32, copy=False)
    points_xy, strides = points_xy[chosen], strides[chosen]
    if head.kind == "dfl":
        boxes_xyxy = _dfl_boxes(selected[:num_box_channels], head.reg_max, points_xy, strides)
        scores = sigmoid(selected[num_box_channels:])
    elif head.kind == "ltrb":
        boxes_xyxy = _boxes_of_distances(np.maximum(selected[:4], 0).T * strides[:, None], points_xy)
        scores = sigmoid(selected[4:])
    else:
        boxes_xyxy = _direct_boxes(selected[:4], points_xy, strides)
        scores = sigmoid(selected[4:5]) * sigmoid(selected[5:])
    return Decoded(boxes_xyxy, np.ascontiguousarray(scores.T), chosen)


@lru_cache(maxsize=8)
def anchor_points(height: int, width: int, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """The centers (x, y) of the cells of all levels in input pixels ``[A, 2]`` and the stride of each ``[A]``, level by
    level, row by row. A side that is no multiple of a stride is rounded up to cells, as padded convolutions do. All
    callers get the same arrays, which cannot be written to."""
    points, stride_of_point = [], []
    for stride in strides:
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) * np.float32(stride)
        x = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) * np.float32(stride)
        grid_x, grid_y = np.meshgrid(x, y)
        points.append(np.stack([grid_x, grid_y], axis=-1).reshape(-1, 2))
        stride_of_point.append(np.full(rows * columns, stride, np.float32))
    shared = np.concatenate(points), np.concatenate(stride_of_point)
    for array in shared:
        array.flags.writeable = False
    return shared


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-value))."""
    with np.errstate(over="ignore"):  # exp(89) is inf in float32, and its inverse 0, as it should be
        result: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-values))
    return result


def _dfl_boxes(bin_logits: FloatArray, reg_max: int, points_xy: FloatArray, strides: FloatArray) -> FloatArray:
    """The mean of each side's distribution is its distance in strides (equation 3 of arXiv 2006.04388)."""
    logits = bin_logits.reshape(4, reg_max, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    numbers = np.arange(reg_max, dtype=np.float32)[:, None]
    distances_ltrb = ((weights / weights.sum(axis=1, keepdims=True)) * numbers).sum(axis=1).T * strides[:, None]
    return _boxes_of_distances(distances_ltrb, points_xy)


def _boxes_of_distances(distances_ltrb: FloatArray, points_xy: FloatArray) -> FloatArray:
    return np.concatenate([points_xy - distances_ltrb[:, :2], points_xy + distances_ltrb[:, 2:]], axis=1)


def _direct_boxes(raw_xywh: FloatArray, points_xy: FloatArray, strides: FloatArray) -> FloatArray:
    """Center = (raw + cell) * stride, size = exp(raw) * stride (arXiv 2107.08430)."""
    stride = strides[:, None]
    cell = points_xy / stride - np.float32(0.5)
    center = (raw_xywh[:2].T + cell) * stride
    with np.errstate(over="ignore"):
        half = np.exp(raw_xywh[2:].T) * stride / np.float32(2)
    return np.concatenate([center - half, center + half], axis=1)


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability) - math.log1p(-probability) if probability < 1 else math.inf
