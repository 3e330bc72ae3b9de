"""Whether scores mean what they say: of the boxes with a score of 0.8, are 0.8 right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.evaluation.objects.scored import ScoredBoxes

NUM_BINS = 20
LOWEST_SCORE = 0.25
"""What ``predict`` shows; the thousands of boxes below would drown all others, and nearly none of them is right."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Boxes by their score, in B bins of one width from 0 to 1: ``num_boxes`` ``[B]``, and where there are any their
    ``mean_score`` ``[B]`` and the share ``precision`` ``[B]`` that is right at IoU 0.5, else 0."""

    num_boxes: IntArray
    mean_score: DoubleArray
    precision: DoubleArray

    @property
    def error(self) -> float:
        """The expected calibration error: by how much score and precision differ, mean over the boxes (Guo et al.,
        arXiv 1706.04599, equation 3; for boxes as in Kueppers et al., arXiv 2004.13546). -1 without boxes."""
        total = self.num_boxes.sum()
        if not total:
            return -1.0
        return float((self.num_boxes * np.abs(self.precision - self.mean_score)).sum() / total)


def calibrate(boxes: ScoredBoxes) -> Calibration:
    """The calibration of the boxes with a score of at least ``LOWEST_SCORE``."""
    shown = boxes.scores >= LOWEST_SCORE
    scores, right = boxes.scores[shown], boxes.right[shown]
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    num_boxes = np.bincount(bins, minlength=NUM_BINS)
    divisor = np.maximum(num_boxes, 1)
    mean_score, precision = (
        np.bincount(bins, weights=weights, minlength=NUM_BINS) / divisor for weights in (scores, right)
    )
    return Calibration(num_boxes, mean_score, precision)
