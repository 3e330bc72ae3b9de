"""Non-maximum suppression in numpy: from dense predictions to candidates, from candidates to detections.

Shape legend: N candidates, A anchors, C classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, FloatArray, IntArray
from detseg.runtime.postprocess.greedy_nms import suppress


class Candidates(NamedTuple):
    """Boxes with one score and one class each: ``[N, 4]`` float32, ``[N]`` float32, ``[N]`` int64; ``anchors`` ``[N]``
    int64 are their rows among the dense predictions."""

    boxes_xyxy: FloatArray
    scores: FloatArray
    labels: IntArray
    anchors: IntArray


def nms(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    labels: IntArray,
    iou: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> IntArray:
    """The indices of the at most ``max_detections`` boxes that survive, best score first.

    A box is suppressed by a better one of its class (of any class when ``class_agnostic``) if their IoU, in float32, is
    greater than the largest float32 that is not above ``iou``. Classes are compared, boxes never offset by
    class. Equal scores rank by index; a NaN score drops its box. The work is O(N x max_detections), the memory O(N).

    Raises:
        ValueError: for shapes that do not fit, ``iou`` outside [0, 1] or ``max_detections`` below 1.
    """
    _check(boxes_xyxy, scores, labels, iou, max_detections)
    if class_agnostic:
        labels = np.zeros_like(labels)
    return suppress(boxes_xyxy, scores, labels, floor_to_float32(iou), max_detections)


def select_candidates(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    confidence: float,
    multi_label: bool,
    max_candidates: int,
    kept: BoolArray | None = None,
) -> Candidates:
    """The boxes whose score is above ``confidence``, in the order of anchor, then class.

    ``boxes_xyxy`` ``[A, 4]``, ``scores`` ``[A, C]``. With ``multi_label`` every class above ``confidence`` makes a
    candidate of its own, otherwise an anchor counts for its best class only, and not at all if one of its scores is
    NaN. Classes that are not ``kept`` ``[C]`` make no candidates; an anchor that is best in one of them makes none
    without ``multi_label``. Of more than ``max_candidates`` the best stay; equal scores at the limit go to the lower
    index.
    """
    if scores.ndim != 2 or boxes_xyxy.shape != (len(scores), 4):
        raise ValueError(f"boxes must be Ax4 and scores AxC, got {boxes_xyxy.shape} and {scores.shape}")
    if max_candidates < 1:
        raise ValueError(f"max_candidates must be at least 1, got {max_candidates}")
    lowest = floor_to_float32(confidence)
    if multi_label:
        anchors, labels = np.nonzero(scores > lowest if kept is None else (scores > lowest) & kept)
    elif scores.shape[1] == 0:
        anchors = labels = np.zeros(0, np.int64)
    else:
        best = scores.argmax(axis=1)
        chosen = scores[np.arange(len(scores)), best] > lowest
        anchors = np.nonzero(chosen if kept is None else chosen & kept[best])[0]
        labels = best[anchors]
    values = scores[anchors, labels]
    if len(values) > max_candidates:
        positions = _best(values, max_candidates)
        anchors, labels, values = anchors[positions], labels[positions], values[positions]
    anchors, labels = (indices.astype(np.int64, copy=False) for indices in (anchors, labels))
    return Candidates(boxes_xyxy[anchors], values, labels, anchors)


def select_detections(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int = 30_000,
    kept: BoolArray | None = None,
) -> Candidates:
    """From dense predictions to final boxes, best first: :func:`select_candidates`, then :func:`nms`."""
    found = select_candidates(boxes_xyxy, scores, confidence, multi_label, max_candidates, kept)
    keep = nms(found.boxes_xyxy, found.scores, found.labels, iou, max_detections, class_agnostic)
    return Candidates(found.boxes_xyxy[keep], found.scores[keep], found.labels[keep], found.anchors[keep])


def floor_to_float32(value: float) -> np.float32:
    """The largest float32 that is not above ``value``: float32 numbers compare with it as they do with ``value``."""
    nearest = np.float32(value)
    return nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf))


def _check(boxes_xyxy: FloatArray, scores: FloatArray, labels: IntArray, iou: float, max_detections: int) -> None:
    num_boxes = len(boxes_xyxy)
    if boxes_xyxy.shape != (num_boxes, 4) or scores.shape != (num_boxes,) or labels.shape != (num_boxes,):
        raise ValueError(
            f"boxes must be Nx4, scores and labels N, got {boxes_xyxy.shape}, {scores.shape} and {labels.shape}"
        )
    if not 0 <= iou <= 1:
        raise ValueError(f"iou must be from 0 to 1, got {iou}")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")


def _best(values: FloatArray, count: int) -> NDArray[np.int64]:
    """The positions of the ``count`` largest values, ascending; ties at the limit go to the lower position."""
    limit = np.partition(values, len(values) - count)[len(values) - count]
    above = np.nonzero(values > limit)[0]
    equal = np.nonzero(values == limit)[0][: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def lowest_logit(confidence: float) -> float:
    """A number so low that no logit that is not above it has a sigmoid above ``confidence``."""
    if confidence <= 0:
        return -math.inf
    if confidence >= 1:
        return 0.0  # nothing is above 1
    exact = math.log(confidence / (1 - confidence))
    return exact - 1e-4 * (1 + abs(exact))
