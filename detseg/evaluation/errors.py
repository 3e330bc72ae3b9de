"""What is wrong with the result for one picture, and how much: the ground for showing the hardest pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray, IntArray
from detseg.evaluation.confusion import areas, intersections
from detseg.evaluation.miou import SegmentationEvaluator
from detseg.evaluation.precision_recall import PrecisionRecallCurve
from detseg.structures import VOID, Detections, GroundTruth, LabelMap
from detseg.volumes import LabelVolume

MATCH_IOU = 0.5
"""A box that overlaps an object of its class by so much stands for it."""
NEAR_IOU = 0.1
"""A box of the right class that overlaps an object by less has nothing to do with it (arXiv 2008.08979)."""
USUAL_CONFIDENCE = 0.25
"""Where no F1 can be had for a class: the confidence from which objects are shown in prediction."""


class Outcome(IntEnum):
    """What a box that was found turns out to be; ``MISS`` is an object for which no box was found."""

    RIGHT = 0
    FALSE_POSITIVE = 1
    WRONG_CLASS = 2
    BADLY_PLACED = 3
    MISS = 4


@dataclass(frozen=True, slots=True)
class BoxErrors:
    """The boxes of one picture that count, D of them, each with its :class:`Outcome`, and the G objects.

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


def best_confidences(curves: Sequence[PrecisionRecallCurve], class_names: Sequence[str]) -> DoubleArray:
    """The confidence ``[C]`` at which the F1 of each class is best, ``USUAL_CONFIDENCE`` where a class has none."""
    confidences = np.full(len(class_names), USUAL_CONFIDENCE)
    for curve in curves:
        f1, confidence = curve.best_f1()
        if f1 > 0:
            confidences[class_names.index(curve.class_name)] = confidence
    return confidences


def find_box_errors(detections: Detections, truth: GroundTruth, confidences: DoubleArray) -> BoxErrors:
    """Say of every box that reaches the confidence of its class, ``confidences`` ``[C]``, what it is.

    Boxes are matched as COCO does it at IoU 0.5: the best scores first, each with the object of its class that it
    overlaps most and that no better one has taken. Boxes that lie in a crowd region instead do not count. Of the
    others, again the best scores first, a box that overlaps a free object of another class by 0.5 has the wrong class;
    one that overlaps a free object of its own class by 0.1 is badly placed; any other is a false positive. Objects that
    are free after that are missed.
    """
    found = detections.select(detections.scores.astype(np.float64) >= confidences[detections.labels])
    found = found.select(np.argsort(-found.scores, kind="stable"))
    truth_xyxy = truth.boxes_xyxy
    overlaps = _overlaps(found.boxes_xyxy.astype(np.float64), truth_xyxy, truth.crowd)
    same_class = found.labels[:, None] == truth.labels
    free = ~truth.crowd

    outcomes = np.full(len(found), Outcome.FALSE_POSITIVE, np.int64)
    objects = np.full(len(found), -1, np.int64)

    def pair(candidates: BoolArray, row: int, outcome: Outcome) -> bool:
        """Pair the box with the one of ``candidates`` ``[G]`` that it overlaps most, the last of equals as in COCO."""
        possible = np.flatnonzero(candidates & free)
        if not len(possible):
            return False
        best = possible[::-1][overlaps[row, possible[::-1]].argmax()]
        free[best] = False
        outcomes[row], objects[row] = outcome, best
        return True

    counts = np.ones(len(found), np.bool_)
    for row in range(len(found)):
        matches = same_class[row] & (overlaps[row] >= MATCH_IOU)
        if not pair(matches, row, Outcome.RIGHT):
            counts[row] = not (matches & truth.crowd).any()
    for row in np.flatnonzero(counts & (objects < 0)).tolist():
        if not pair(~same_class[row] & (overlaps[row] >= MATCH_IOU), row, Outcome.WRONG_CLASS):
            pair(same_class[row] & (overlaps[row] >= NEAR_IOU), row, Outcome.BADLY_PLACED)
    paired = np.flatnonzero(objects >= 0)
    with_object = np.zeros(len(found))
    with_object[paired] = overlaps[paired, objects[paired]]
    return BoxErrors(found.select(counts), outcomes[counts], objects[counts], with_object[counts], free)


def _overlaps(found_xyxy: DoubleArray, truth_xyxy: DoubleArray, crowd: BoolArray) -> DoubleArray:
    """The IoU ``[D, G]`` of boxes; with a crowd region the share of the box that lies in it."""
    intersection = intersections(found_xyxy, truth_xyxy)
    found_areas = areas(found_xyxy)[:, None]
    whole = np.where(crowd, found_areas, found_areas + areas(truth_xyxy) - intersection)
    share: DoubleArray = np.divide(intersection, whole, out=np.zeros_like(intersection), where=whole > 0)
    return share


def mask_scores(result: LabelMap, truth: ByteArray, class_names: Sequence[str]) -> dict[str, float]:
    """The IoU of each class that one image holds, in truth or result. Empty where nothing can be judged."""
    pairs = _common_pixels([(result.labels, truth)], class_names)
    return {name: both / (total - both) for name, both, total in pairs}


def volume_scores(result: LabelVolume, truth: LabelVolume, class_names: Sequence[str]) -> dict[str, float]:
    """The Dice of each class that one volume holds, in truth or result, without class 0, the background. Empty where
    nothing can be judged."""
    # Slice by slice, as counting takes many times the memory of what is counted.
    pairs = _common_pixels(zip(result.labels, truth.labels, strict=True), class_names)
    return {name: 2 * both / total for name, both, total in pairs if name != class_names[0]}


def _common_pixels(
    slices: Iterable[tuple[ByteArray, ByteArray]], class_names: Sequence[str]
) -> list[tuple[str, int, int]]:
    """Of each class that is there, in the found labels or the true ones: how many pixels have it in both, and how many
    in either, counted for each."""
    counter = SegmentationEvaluator(class_names)
    is_judged = False
    for position, (found_slice, true_slice) in enumerate(slices):
        is_judged = is_judged or bool((true_slice != VOID).any())
        counter.update(position, LabelMap(found_slice), true_slice)
    if not is_judged:
        return []
    counts = counter.confusion_matrix()
    both, true, found = counts.diagonal(), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    columns = zip(class_names, both.tolist(), (true + found).tolist(), strict=False)
    return [(name, overlap, total) for name, overlap, total in columns if total]
