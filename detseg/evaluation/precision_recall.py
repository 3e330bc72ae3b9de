"""Precision over recall for one class, and the operating point it suggests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detseg.arrays import DoubleArray


@dataclass(frozen=True, slots=True)
class PrecisionRecallCurve:
    """COCO's curve of one class at one IoU threshold, sampled at R = 101 recalls from 0 to 1.

    ``precision`` ``[R]`` is the highest precision at this recall or above (the interpolation of PASCAL VOC and COCO),
    0 where the recall is not reached. ``confidences`` ``[R]`` are the scores at which each recall is reached.
    """

    class_name: str
    iou: float
    recall: DoubleArray
    precision: DoubleArray
    confidences: DoubleArray

    @property
    def average_precision(self) -> float:
        """The mean precision over the recalls: COCO's AP at this IoU."""
        return float(self.precision.mean())

    @property
    def f1(self) -> DoubleArray:
        """F1 = 2PR / (P + R) at each recall, ``[R]``."""
        total = self.precision + self.recall
        f1: DoubleArray = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        return f1

    def best_f1(self) -> tuple[float, float]:
        """The highest F1 and the confidence at which it is reached; (0, 0) where nothing was found.

        Recall is rounded down to the curve's steps of 0.01, so F1 may be low by as much.
        """
        f1 = self.f1
        best = int(f1.argmax())
        return (float(f1[best]), float(self.confidences[best])) if f1[best] > 0 else (0.0, 0.0)
