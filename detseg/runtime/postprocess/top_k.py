"""The best of a one-to-one head's predictions, in numpy: each object has one, so that nothing is suppressed.

Shape legend: A anchors, C classes, N selected.
"""

from __future__ import annotations

import numpy as np

from detseg.arrays import BoolArray, FloatArray
from detseg.runtime.postprocess.nms import Candidates, floor_to_float32


def select_best(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    confidence: float,
    max_detections: int,
    multi_label: bool,
    kept: BoolArray | None = None,
) -> tuple[Candidates, int]:
    """The at most ``max_detections`` best pairs of an anchor and a class whose score is above ``confidence``, best
    first, and how many more there are (YOLOv10, arXiv 2405.14458, section 3.1: top-k in place of NMS).

    ``boxes_xyxy`` ``[A, 4]``, ``scores`` ``[A, C]``. Without ``multi_label`` an anchor counts for its best class only.
    Equal scores rank by anchor, then class. An anchor with a NaN among its scores does not count. Classes that are not
    ``kept`` ``[C]`` make no pairs; an anchor that is best in one of them makes none without ``multi_label``.

    Raises:
        ValueError: for shapes that do not fit, or ``max_detections`` below 1.
    """
    if scores.ndim != 2 or boxes_xyxy.shape != (len(scores), 4):
        raise ValueError(f"boxes must be Ax4 and scores AxC, got {boxes_xyxy.shape} and {scores.shape}")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    lowest = floor_to_float32(confidence)
    if kept is not None and multi_label:
        scores = np.where(kept, scores, np.float32(-1))
    # A NaN is passed on by the maximum, and is not above anything.
    anchors = np.nonzero(scores.max(axis=1, initial=-1) > lowest)[0]
    chosen = scores[anchors]
    if multi_label:
        rows, labels = np.nonzero(chosen > lowest)
    else:
        labels = chosen.argmax(axis=1) if len(chosen) else np.zeros(0, np.int64)
        rows = np.arange(len(chosen)) if kept is None else np.nonzero(kept[labels])[0]
        labels = labels[rows]
    values = chosen[rows, labels]
    order = np.argsort(-values, kind="stable")[:max_detections]
    anchors = anchors[rows[order]].astype(np.int64, copy=False)
    best = Candidates(boxes_xyxy[anchors], values[order], labels[order].astype(np.int64, copy=False), anchors)
    return best, len(values) - len(order)
