"""Precision over recall for one class."""

from __future__ import annotations

from dataclasses import dataclass

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
