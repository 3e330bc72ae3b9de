"""Which classes a detector takes for which, and what it misses or invents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import IntArray
from detseg.evaluation.objects.errors import Outcome, find_box_errors
from detseg.evaluation.objects.matching import Overlaps, overlaps_of
from detseg.structures import Detections, GroundTruth


class ConfusionMatrix:
    """Counts of (true class, predicted class) over images, with background as the last row and the last column.

    ``counts`` ``[C + 1, C + 1]`` int64: rows are the truth, columns the prediction. ``counts[c, C]`` objects of class c
    were missed; ``counts[C, c]`` detections of class c found nothing.

    Detections below ``confidence`` do not count. Objects and detections of one class are paired first, as for AP and
    for the curves of F1 (see :func:`detseg.evaluation.objects.matching.match_boxes`), so that the diagonal holds what
    these count as right; then those of different classes, again the best scores first, down to an IoU of ``iou``. A
    crowd region is never missed, and a detection that found nothing does not count when at least the share ``iou`` of
    its area lies in a crowd region of its class. ``measure`` says how far detections and objects overlap.

    Raises:
        ValueError: a threshold is outside [0, 1].
    """

    def __init__(
        self,
        class_names: Sequence[str],
        confidence: float = 0.25,
        iou: float = 0.5,
        measure: Overlaps = overlaps_of,
    ) -> None:
        for name, value in (("confidence", confidence), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        self.class_names = tuple(class_names)
        self.confidence = confidence
        self.iou = iou
        self._measure = measure
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
        errors = find_box_errors(detections, truth, np.full(background, self.confidence), self.iou, self._measure)
        stands = (errors.outcomes == Outcome.RIGHT) | (errors.outcomes == Outcome.WRONG_CLASS)
        true_labels = np.full(len(stands), background)
        true_labels[stands] = truth.labels[errors.objects[stands]]
        np.add.at(self.counts, (true_labels, errors.found.labels), 1)
        # An object whose box is badly placed has been missed at this IoU, and the box has found nothing.
        displaced = errors.objects[errors.outcomes == Outcome.BADLY_PLACED]
        missed = np.concatenate([truth.labels[errors.missed], truth.labels[displaced]])
        self.counts[:, background] += np.bincount(missed, minlength=background + 1)
