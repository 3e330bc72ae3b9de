"""Which classes a detector takes for which, and what it misses or invents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from detseg.structures import Detections, GroundTruth


class ConfusionMatrix:
    """Counts of (true class, predicted class) over images, with background as the last row and the last column.

    ``counts`` ``[C + 1, C + 1]`` int64: rows are the truth, columns the prediction. ``counts[c, C]`` objects of class c
    were missed; ``counts[C, c]`` detections of class c found nothing.

    Detections below ``confidence`` do not count. Objects and detections are paired whatever their classes, the pair of
    the highest IoU first (the higher score first where IoUs are equal), each at most once, down to an IoU of ``iou``.
    A crowd region is never missed, and a detection that found nothing does not count when at least the share ``iou`` of
    its area lies in a crowd region of its class.

    Raises:
        ValueError: a threshold is outside [0, 1].
    """

    def __init__(self, class_names: Sequence[str], confidence: float = 0.25, iou: float = 0.5) -> None:
        for name, value in (("confidence", confidence), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        self.class_names = tuple(class_names)
        self.confidence = confidence
        self.iou = iou
        size = len(self.class_names) + 1
        self.counts: IntArray = np.zeros((size, size), np.int64)

    def update(self, detections: Detections, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            ValueError: a label is no class position.
        """
        background = len(self.class_names)
        for labels in (detections.labels, truth.labels):
            if len(labels) and (labels.min() < 0 or labels.max() >= background):
                raise ValueError(f"labels from {labels.min()} to {labels.max()}; allowed are 0 to {background - 1}")
        found = detections.select(detections.scores >= self.confidence)
        found_xyxy = found.boxes_xyxy.astype(np.float64)
        truth_xyxy = truth.boxes_xyxy
        objects_xyxy, object_labels = truth_xyxy[~truth.crowd], truth.labels[~truth.crowd]

        object_index, found_index = _pair_greedily(pairwise_iou(objects_xyxy, found_xyxy), found.scores, self.iou)
        missed = np.delete(object_labels, object_index)
        in_crowd = _lies_in_crowd(
            found_xyxy, found.labels, truth_xyxy[truth.crowd], truth.labels[truth.crowd], self.iou
        )
        in_crowd[found_index] = True
        invented = found.labels[~in_crowd]

        np.add.at(self.counts, (object_labels[object_index], found.labels[found_index]), 1)
        self.counts[:, background] += np.bincount(missed, minlength=background + 1)
        self.counts[background] += np.bincount(invented, minlength=background + 1)


def pairwise_iou(first_xyxy: DoubleArray, second_xyxy: DoubleArray) -> DoubleArray:
    """Boxes ``[N, 4]`` and ``[M, 4]`` in pixels -> their IoU ``[N, M]``; 0 where both are without area."""
    intersection = intersections(first_xyxy, second_xyxy)
    union = areas(first_xyxy)[:, None] + areas(second_xyxy) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _pair_greedily(iou: DoubleArray, scores: FloatArray, threshold: float) -> tuple[IntArray, IntArray]:
    """IoU ``[N, M]``, scores ``[M]`` -> the rows and the columns of the pairs."""
    rows, columns = np.nonzero((iou >= threshold) & (iou > 0))
    order = np.lexsort((-scores[columns], -iou[rows, columns]))
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    paired = np.array(pairs, np.int64).reshape(-1, 2)
    return paired[:, 0], paired[:, 1]


def _lies_in_crowd(
    boxes_xyxy: DoubleArray, labels: IntArray, crowd_xyxy: DoubleArray, crowd_labels: IntArray, share: float
) -> BoolArray:
    inside = intersections(boxes_xyxy, crowd_xyxy) >= np.maximum(share * areas(boxes_xyxy)[:, None], 1e-9)
    covered: BoolArray = (inside & (labels[:, None] == crowd_labels)).any(axis=1)
    return covered


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
