"""F1 over confidence, and the confidence that it suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.evaluation.objects.scored import ScoredBoxes


@dataclass(frozen=True, slots=True)
class F1Curve:
    """What counts at every confidence that a box has, K of them, the highest first.

    At ``confidences[k]`` all boxes of at least this score are shown: ``num_right[k]`` of ``num_found[k]`` are right,
    and there are ``num_objects``.
    """

    class_name: str
    iou: float
    confidences: DoubleArray
    num_right: IntArray
    num_found: IntArray
    num_objects: int

    @property
    def f1(self) -> DoubleArray:
        """F1 = 2 TP / (2 TP + FP + FN) at each confidence, ``[K]``."""
        f1: DoubleArray = 2 * self.num_right / (self.num_found + self.num_objects)
        return f1

    def best(self) -> tuple[float, float]:
        """The highest F1 and the confidence at which it is reached, the higher of equals; (0, 0) where no box is
        right."""
        f1 = self.f1
        if not f1.any():
            return 0.0, 0.0
        best = int(f1.argmax())
        return float(f1[best]), float(self.confidences[best])

    def at(self, confidence: float) -> float:
        """The F1 of the boxes of at least this ``confidence``; 0 where there is none."""
        position = int(np.searchsorted(-self.confidences, -confidence, side="right")) - 1
        return float(self.f1[position]) if position >= 0 else 0.0


def f1_curves(boxes: ScoredBoxes, class_names: Sequence[str], iou: float) -> list[F1Curve]:
    """The curve of each class that has objects."""
    return [
        _curve(boxes, boxes.labels == label, name, iou, int(boxes.num_objects[label]))
        for label, name in enumerate(class_names)
        if boxes.num_objects[label]
    ]


def f1_of_all(boxes: ScoredBoxes, iou: float) -> F1Curve:
    """The curve over the objects of all classes, shown at one confidence."""
    everything = np.ones(len(boxes.scores), np.bool_)
    return _curve(boxes, everything, "all", iou, int(boxes.num_objects.sum()))


def f1_at(boxes: ScoredBoxes, confidences: DoubleArray) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) over the objects of all classes, of the boxes that score no less than
    ``confidences`` ``[C]`` says for their class."""
    shown = boxes.scores >= confidences[boxes.labels]
    total = int(shown.sum()) + int(boxes.num_objects.sum())
    return 2 * int(boxes.right[shown].sum()) / total if total else 0.0


def _curve(boxes: ScoredBoxes, chosen: BoolArray, name: str, iou: float, num_objects: int) -> F1Curve:
    scores, right = boxes.scores[chosen], boxes.right[chosen]
    order = np.argsort(-scores, kind="stable")
    scores, num_right = scores[order], np.cumsum(right[order], dtype=np.int64)
    # Boxes of one score are shown together.
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.empty(0, np.int64)
    return F1Curve(name, iou, scores[last], num_right[last], last + 1, num_objects)
