from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.writers.boxes import detections_to_coco, write_results
from detseg.structures import Detections


def test_records_hold_the_doubles_of_the_float32_values() -> None:
    detections = Detections(
        np.array([[1.1, 2, 11.3, 22], [0, 0, 5, 5]], np.float32), np.array([0.9, 0.1], np.float32), np.array([1, 0])
    )
    left, right, score = float(np.float32(1.1)), float(np.float32(11.3)), float(np.float32(0.9))
    assert detections_to_coco(17, detections, [3, 90]) == [
        {"image_id": 17, "category_id": 90, "bbox": [left, 2.0, right - left, 20.0], "score": score},
        {"image_id": 17, "category_id": 3, "bbox": [0.0, 0.0, 5.0, 5.0], "score": float(np.float32(0.1))},
    ]


def test_a_file_gives_back_the_very_numbers(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    boxes_xyxy = np.sort(generator.uniform(0, 1e4, (100, 4)).astype(np.float32), axis=1)
    scores = generator.random(100, np.float32)
    records = detections_to_coco(2**40, Detections(boxes_xyxy, scores, np.zeros(100, np.int64)), [5])
    write_results(tmp_path / "new" / "results.json", records)
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == records


def test_no_detections_make_an_empty_list(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", detections_to_coco(1, Detections.empty(), [1]))
    assert json.loads((tmp_path / "results.json").read_text()) == []


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    detections = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([label]))
    with pytest.raises(ValueError, match=f"image 4: detection with label {label}; allowed are 0 to 1"):
        detections_to_coco(4, detections, [1, 2])
