"""What is wrong with the result for one image, and how much: the ground for showing the hardest images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.evaluation.objects.f1 import F1Curve
from detseg.evaluation.objects.matching import MATCH_IOU, Overlaps, match_boxes, overlaps_of
from detseg.runtime.postprocess.class_settings import USUAL_CONFIDENCE
from detseg.structures import Detections, GroundTruth

NEAR_IOU = 0.1
"""A box of the right class that overlaps an object by less has nothing to do with it (arXiv 2008.08979)."""


class Outcome(IntEnum):
    """What a box that was found turns out to be; ``MISS`` is an object for which no box was found."""

    RIGHT = 0
    FALSE_POSITIVE = 1
    WRONG_CLASS = 2
    BADLY_PLACED = 3
    MISS = 4


@dataclass(frozen=True, slots=True)
class BoxErrors:
    """The boxes of one image that count, D of them, each with its :class:`Outcome`, and the G objects.

    ``outcomes`` ``[D]`` int64; ``objects`` ``[D]`` int64, the object that the box stands for, or should have stood for
    had its class or its place been right, -1 where there is none; ``overlaps`` ``[D]`` the IoU with that object;
    ``missed`` ``[G]`` bool.
    """

    found: Detections
    outcomes: IntArray
    objects: IntArray
    overlaps: DoubleArray
    missed: BoolArray

    def count(self, outcome: Outcome) -> int:
        """How many boxes, or objects for ``MISS``, there are of this kind."""
        return int(self.missed.sum() if outcome is Outcome.MISS else (self.outcomes == outcome).sum())

    @property
    def num_errors(self) -> int:
        """False positives and misses as F1 = 2 TP / (2 TP + FP + FN) counts them: a box of the wrong class or in the
        wrong place is one of each."""
        halves = self.count(Outcome.FALSE_POSITIVE) + self.count(Outcome.MISS)
        return halves + 2 * (self.count(Outcome.WRONG_CLASS) + self.count(Outcome.BADLY_PLACED))

    def tally(self, truth: GroundTruth, num_classes: int) -> IntArray:
        """Numbers ``[C, 5]`` by class and :class:`Outcome`; an object taken for another counts for its own class."""
        counts = np.zeros((num_classes, len(Outcome)), np.int64)
        labels = self.found.labels.copy()
        taken_for_another = self.outcomes == Outcome.WRONG_CLASS
        labels[taken_for_another] = truth.labels[self.objects[taken_for_another]]
        np.add.at(counts, (labels, self.outcomes), 1)
        counts[:, Outcome.MISS] = np.bincount(truth.labels[self.missed], minlength=num_classes)
        return counts


def best_confidences(curves: Sequence[F1Curve], class_names: Sequence[str]) -> DoubleArray:
    """The confidence ``[C]`` at which the F1 of each class is best, ``USUAL_CONFIDENCE`` where a class has none."""
    confidences = np.full(len(class_names), USUAL_CONFIDENCE)
    for curve in curves:
        f1, confidence = curve.best()
        if f1 > 0:
            confidences[class_names.index(curve.class_name)] = confidence
    return confidences


def find_box_errors(
    detections: Detections,
    truth: GroundTruth,
    confidences: DoubleArray,
    iou: float = MATCH_IOU,
    measure: Overlaps = overlaps_of,
) -> BoxErrors:
    """Say of every box that reaches the confidence of its class, ``confidences`` ``[C]``, what it is.

    Boxes are matched as COCO does it at this ``iou``, see :func:`detseg.evaluation.objects.matching.match_boxes`. Boxes
    that lie in a crowd region instead do not count. Of the others, again the best scores first, a box that overlaps a
    free object of another class by ``iou`` has the wrong class;
    one that overlaps a free object of its own class by 0.1 is badly placed; any other is a false positive. Objects that
    are free after that are missed. ``measure`` says ``[D, G]`` how far they overlap, where it is not the IoU of
    boxes.
    """
    found = detections.select(detections.scores.astype(np.float64) >= confidences[detections.labels])
    found = found.select(np.argsort(-found.scores, kind="stable"))
    match = match_boxes(found, truth, iou, measure)
    overlaps, objects = match.overlaps, match.objects.copy()
    outcomes = np.where(objects >= 0, Outcome.RIGHT, Outcome.FALSE_POSITIVE).astype(np.int64)
    same_class = found.labels[:, None] == truth.labels
    free = ~truth.crowd
    free[objects[objects >= 0]] = False

    def pair(candidates: BoolArray, row: int, outcome: Outcome) -> bool:
        """Pair the box with the one of ``candidates`` ``[G]`` that it overlaps most, the last of equals as in COCO."""
        possible = np.flatnonzero(candidates & free)[::-1]
        if not len(possible):
            return False
        objects[row] = possible[overlaps[row, possible].argmax()]
        free[objects[row]], outcomes[row] = False, outcome
        return True

    counts = ~match.in_crowd
    for row in np.flatnonzero(counts & (objects < 0)).tolist():
        touched = overlaps[row] > 0
        if not pair(~same_class[row] & touched & (overlaps[row] >= iou), row, Outcome.WRONG_CLASS):
            pair(same_class[row] & touched & (overlaps[row] >= NEAR_IOU), row, Outcome.BADLY_PLACED)
    paired = np.flatnonzero(objects >= 0)
    with_object = np.zeros(len(found))
    with_object[paired] = overlaps[paired, objects[paired]]
    return BoxErrors(found.select(counts), outcomes[counts], objects[counts], with_object[counts], free)
