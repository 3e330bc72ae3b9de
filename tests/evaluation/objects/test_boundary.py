"""Boundary AP: equal to another program's on real annotations, and to what can be seen on small masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.evaluation.objects.boundary import boundary_of
from detseg.evaluation.objects.instances import InstanceEvaluator
from detseg.run_lengths import RunLengths
from detseg.structures import GroundTruth, Instances
from tests.evaluation.objects.test_instances import NUM_IMAGES, dataset, pairs

__all__ = ["dataset", "pairs"]  # fixtures


def test_the_band_along_the_edge() -> None:
    mask = np.zeros((60, 80), bool)  # a diagonal of 100: two pixels
    mask[10:30, 20:50] = True
    mask[40:, 70:] = True
    band = boundary_of(RunLengths.from_mask(mask)).to_mask()
    expected = mask.copy()
    expected[12:28, 22:48] = False
    expected[42:58, 72:78] = False
    assert np.array_equal(band, expected), "the border of the image is an edge, too"


def test_thin_and_empty_masks_are_all_boundary() -> None:
    line = RunLengths.from_crop(np.ones((1, 30), bool), 5, 5, 60, 80)
    empty = RunLengths.from_mask(np.zeros((60, 80), bool))
    assert (boundary_of(line), boundary_of(empty)) == (line, empty)
    assert boundary_of(RunLengths.from_crop(np.ones((3, 3), bool), 0, 0, 5, 5)).area == 8, "at least one pixel wide"


def test_equals_another_program(dataset: Any, pairs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = pytest.importorskip("faster_coco_eval")
    evaluator = InstanceEvaluator(dataset.class_names, dataset.category_ids, boundary=True)
    for found, truth in pairs:
        evaluator.update(truth.image_id, found, truth)
    metrics = evaluator.compute()
    assert capsys.readouterr().out == ""
    annotations = other.COCO(next((Path(dataset.home) / "annotations").glob("instances_val*.json")))
    evaluation = other.COCOeval_faster(annotations, annotations.loadRes(evaluator.results()), "boundary")
    evaluation.params.imgIds = [dataset.image_id(index) for index in range(NUM_IMAGES)]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found_by_us = [metrics[f"{name}_boundary"] for name in ("AP", "AP50", "AP75")]
    assert found_by_us == pytest.approx(list(evaluation.stats[:3]), abs=1e-9, rel=0)
    assert 0 < metrics["AP_boundary"] < metrics["AP"]
    assert not [name for name in InstanceEvaluator(["cat"]).state() if "boundary" in name]


@pytest.mark.parametrize("crowd", [True, False])
def test_a_rough_outline_of_a_large_object(crowd: bool) -> None:
    """A square of 400 pixels found 12 pixels too small on all sides: an IoU of 0.88, but nothing of its edge."""
    square = RunLengths.from_crop(np.ones((400, 400), bool), 50, 50, 500, 500)
    smaller = RunLengths.from_crop(np.ones((376, 376), bool), 62, 62, 500, 500)
    evaluator = InstanceEvaluator(["cat"], boundary=True)
    box = np.array([[50, 50, 450, 450]], np.float32)
    truth = GroundTruth(
        1, 500, 500, box.astype(float), np.array([0]), np.array([crowd]), np.array([160_000.0]), (square,)
    )
    evaluator.update(1, Instances(box, np.array([0.9], np.float32), np.array([0]), None, (smaller,)), truth)
    metrics = evaluator.compute()
    expected = (-1, -1) if crowd else (0.8, 0)
    assert (metrics["AP"], metrics["AP_boundary"]) == pytest.approx(expected)
