"""How far the boxes of an exported file are from those of the model."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from detseg.arrays import FloatArray
from detseg.runtime.kinds.boxes import DetectionMetadata
from detseg.structures import Detections

BOX_TOLERANCE = 0.01
SCORE_TOLERANCE = 1e-4
MIN_IOU = 0.5
"""Boxes of one class that overlap less are not the same object."""


class BoxComparison:
    """Boxes are matched within their image and class, the best first, each with the free one that overlaps most.

    Only those above ``confidence`` count. One without a partner is excused where its score is within the tolerance of
    the limit that the other side had: the confidence, or the lowest score where ``max_detections`` were found.
    """

    compares_outputs = False

    def __init__(self, confidence: float, max_detections: int) -> None:
        self._confidence = confidence
        self._max_detections = max_detections
        self._box_difference = 0.0
        self._score_difference = 0.0
        self._sum_of_shifts = 0.0
        self._num_images = 0
        self._num_matched = 0
        self._num_alone = 0

    @classmethod
    def of(cls, metadata: DetectionMetadata) -> Self:
        """Boxes above the confidence that the file was made for."""
        return cls(metadata.postprocess.confidence, metadata.postprocess.max_detections)

    def add(self, expected: Detections, found: Detections) -> None:
        """The boxes of one image, from torch and from the file."""
        self._num_images += 1
        pairs = _match(expected, found)
        counts = (expected.scores[pairs[:, 0]] > self._confidence) | (found.scores[pairs[:, 1]] > self._confidence)
        rows, columns = pairs[counts].T
        self._num_matched += len(rows)
        if len(rows):
            self._add_pairs(expected.select(rows), found.select(columns))
        for own, other, column in ((expected, found, 0), (found, expected, 1)):
            alone = np.ones(len(own), bool)
            alone[pairs[:, column]] = False
            self._num_alone += int((own.scores[alone] > self._limit(other)).sum())

    def _add_pairs(self, expected: Detections, found: Detections) -> None:
        """The same objects, at least one, from both sides."""
        boxes = np.abs(expected.boxes_xyxy - found.boxes_xyxy)
        scores = np.abs(expected.scores - found.scores)
        self._box_difference = max(self._box_difference, float(boxes.max()))
        self._score_difference = max(self._score_difference, float(scores.max()))
        self._sum_of_shifts += float(scores.sum())

    def add_outputs(self, expected: Any, found: Any) -> None:
        """Raw maps are not compared: boxes are what counts."""

    def report(self) -> dict[str, Any]:
        """Differences in pixels of the original images and in scores; ``matched`` is a share of all boxes."""
        return {
            "images": self._num_images,
            "boxes": self._num_matched + self._num_alone,
            "confidence": self._confidence,
            "largest_box_difference_px": self._box_difference,
            "largest_score_difference": self._score_difference,
            "mean_score_difference": self._sum_of_shifts / self._num_matched if self._num_matched else 0.0,
            "matched": self._matched,
        }

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32."""
        problems = []
        if self._box_difference > BOX_TOLERANCE:
            problems.append(f"a box differs by {self._box_difference:.3g} px, allowed are {BOX_TOLERANCE}")
        if self._score_difference > SCORE_TOLERANCE:
            problems.append(f"a score differs by {self._score_difference:.3g}, allowed is {SCORE_TOLERANCE}")
        if self._num_alone:
            problems.append(f"{self._num_alone} boxes have no match; {100 * self._matched:.2f} % have one")
        return problems

    @property
    def _matched(self) -> float:
        num_boxes = self._num_matched + self._num_alone
        return self._num_matched / num_boxes if num_boxes else 1.0

    def _limit(self, other: Detections) -> float:
        full = len(other) >= self._max_detections
        return max(self._confidence, float(other.scores.min()) if full else 0.0) + SCORE_TOLERANCE


def _match(expected: Detections, found: Detections) -> Any:
    """Pairs of rows ``[N, 2]`` of the same objects."""
    ious = _ious(expected.boxes_xyxy, found.boxes_xyxy)
    ious[expected.labels[:, None] != found.labels] = 0
    pairs = []
    for row in range(len(ious)):  # detections come best first
        if ious.shape[1] and ious[row].max() >= MIN_IOU:
            column = int(ious[row].argmax())
            pairs.append((row, column))
            ious[:, column] = 0
    return np.array(pairs, np.int64).reshape(-1, 2)


def _ious(boxes_xyxy: FloatArray, others_xyxy: FloatArray) -> FloatArray:
    """``[N, M]``; boxes without area overlap a copy of themselves wholly, as they are still to be found again."""
    boxes, others = boxes_xyxy[:, None], others_xyxy[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    overlap = np.clip(sides, 0, None).prod(axis=2)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=2) for box in (boxes, others)]
    union = areas[0] + areas[1] - overlap
    close = np.abs(boxes - others).max(axis=2) <= BOX_TOLERANCE
    ious: FloatArray = np.where(close, 1.0, overlap / np.where(union > 0, union, 1)).astype(np.float32)
    return ious
