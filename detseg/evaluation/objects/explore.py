"""What a page needs to show results at any confidence: counts by class, and the boxes of single images.

Shape legend: C classes, T = 101 confidences 0.00, 0.01, ..., 1.00.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detseg.arrays import BoolArray, IntArray
from detseg.evaluation.objects.errors import Outcome, find_box_errors
from detseg.structures import Detections, GroundTruth

NUM_STEPS = 100
"""Steps of confidence from 0 to 1."""
_LEAST_SCORE = 0.05
_MOST_BOXES = 60
_GRID = 1000
"""Places on images are whole numbers from 0 to this, across and down."""


@dataclass(frozen=True, slots=True)
class BoxCounts:
    """Numbers of boxes over a data set at IoU 0.5: ``num_objects`` ``[C]``, ``right`` and ``wrong`` ``[C, T]``, boxes
    that score no less than each of the T confidences. They are matched as COCO does it, the best scores first, so that
    what a box stands for does not depend on those that score less."""

    num_objects: IntArray
    right: IntArray
    wrong: IntArray

    def best_confidence(self) -> float:
        """The confidence at which F1 over the objects of all classes is best; the highest of equals."""
        right, wrong = self.right.sum(axis=0), self.wrong.sum(axis=0)
        f1 = 2 * right / np.maximum(right + wrong + self.num_objects.sum(), 1)
        return float(np.flatnonzero(f1 == f1.max())[-1]) / NUM_STEPS if f1.max() > 0 else 0.25


def count_boxes(images: Iterable[tuple[Detections, GroundTruth]], num_classes: int) -> BoxCounts:
    """Count what was found in all ``images``, each with its truth."""
    num_objects = np.zeros(num_classes, np.int64)
    steps = np.zeros((2, num_classes, NUM_STEPS + 1), np.int64)
    for found, truth in images:
        num_objects += np.bincount(truth.labels[~truth.crowd], minlength=num_classes)
        boxes, is_right = judge(found, truth, num_classes)
        # The last confidence that a box reaches; scores are float32, and 0.3 must reach 0.30.
        reached = np.floor(boxes.scores.astype(np.float64) * NUM_STEPS + 1e-4).astype(np.int64)
        np.add.at(steps, ((~is_right).astype(np.int64), boxes.labels, np.clip(reached, 0, NUM_STEPS)), 1)
    right, wrong = np.cumsum(steps[..., ::-1], axis=2)[..., ::-1]
    return BoxCounts(num_objects, right, wrong)


def image_record(found: Detections, truth: GroundTruth, num_classes: int) -> dict[str, Any]:
    """The boxes of one image as plain data, in whole numbers: ``truth``: rows of label, left, top, right, bottom (in
    thousandths of the image) and whether it is a crowd; ``found``: label, the corners, the score in thousandths and
    whether it is right, the best scores first."""
    boxes, is_right = judge(found, truth, num_classes)
    shown = np.flatnonzero(boxes.scores >= _LEAST_SCORE)[:_MOST_BOXES]
    size = np.array([truth.width, truth.height] * 2, np.float64)
    corners = _places(boxes.boxes_xyxy[shown].astype(np.float64), size)
    columns = zip(
        boxes.labels[shown].tolist(), corners, boxes.scores[shown].tolist(), is_right[shown].tolist(), strict=True
    )
    true_corners = _places(truth.boxes_xyxy, size)
    return {
        "truth": [
            [label, *box, int(crowd)]
            for label, box, crowd in zip(truth.labels.tolist(), true_corners, truth.crowd.tolist(), strict=True)
        ],
        "found": [[label, *box, int(1000 * score + 0.1), int(right)] for label, box, score, right in columns],
    }


def judge(found: Detections, truth: GroundTruth, num_classes: int) -> tuple[Detections, BoolArray]:
    """The boxes that count, the best scores first, and which of them are right at IoU 0.5, ``[D]``."""
    errors = find_box_errors(found, truth, np.zeros(num_classes))
    is_right: BoolArray = errors.outcomes == Outcome.RIGHT
    return errors.found, is_right


def _places(boxes_xyxy: Any, size: Any) -> Sequence[list[int]]:
    places: list[list[int]] = np.clip(np.round(boxes_xyxy / size * _GRID), 0, _GRID).astype(int).tolist()
    return places
