"""Detections in COCO's result format: what evaluation judges and what the saved file holds are the same numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.files import atomic_path
from detseg.structures import Detections


def detections_to_coco(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one image as COCO result records, in their order.

    Boxes become (left, top, width, height) and, like scores, the doubles that stand for the float32 values. JSON keeps
    a double exactly, so a file written by :func:`write_results` gives back these very numbers.

    ``category_ids``: the data set's id of each class position.

    Raises:
        ValueError: a label is no class position.
    """
    num_classes = len(category_ids)
    strange = detections.labels[(detections.labels < 0) | (detections.labels >= num_classes)]
    if len(strange):
        raise ValueError(f"image {image_id}: detection with label {strange[0]}; allowed are 0 to {num_classes - 1}")
    boxes_xywh = detections.boxes_xyxy.astype(np.float64)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    rows = zip(boxes_xywh.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {"image_id": int(image_id), "category_id": int(category_ids[label]), "bbox": box_xywh, "score": score}
        for box_xywh, score, label in rows
    ]
    if detections.track_ids is not None:
        for record, track_id in zip(records, detections.track_ids.tolist(), strict=True):
            record["track_id"] = track_id
    return records


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write COCO result records to ``path``, whole or not at all; pycocotools' ``loadRes`` reads the file.

    Raises:
        SaveError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # dumps, not dump: only the former uses the fast encoder
        file.write(json.dumps(list(results), allow_nan=False))
