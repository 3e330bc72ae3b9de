from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.engine.reports.html_report import render
from detseg.engine.reports.report import make_report, write_metrics, write_report
from detseg.evaluation.base import Evaluator
from detseg.evaluation.labels.dice import VolumeEvaluator
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.structures import Detections, GroundTruth, LabelMap
from detseg.volumes import LabelVolume

NAMES = ("background", "cell")


def boxes(num_objects: int = 1) -> CocoEvaluator:
    evaluator = CocoEvaluator(NAMES)
    xyxy = np.array([[0, 0, 10, 10]] * num_objects, np.float32).reshape(-1, 4)
    labels = np.ones(num_objects, np.int64)
    truth = GroundTruth(1, 20, 20, xyxy.astype(np.float64), labels, labels == 0, np.full(num_objects, 100.0))
    evaluator.update(1, Detections(xyxy, np.full(num_objects, 0.9, np.float32), labels), truth)
    return evaluator


def masks() -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(NAMES)
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    evaluator.update(1, LabelMap(mask), mask)
    return evaluator


def volumes() -> VolumeEvaluator:
    evaluator = VolumeEvaluator(NAMES)
    labels = LabelVolume(np.ones((3, 3, 3), np.uint8), np.eye(4))
    evaluator.update(1, labels, labels)
    return evaluator


CASES: list[Any] = [
    (boxes(), {"detections.json", "pr_curve.png", "f1_curve.png", "calibration.png", "confusion_matrix.png"}, 4),
    (boxes(0), {"detections.json", "confusion_matrix.png"}, 1),
    (masks(), {"iou.png", "confusion_matrix.png"}, 2),
    (volumes(), {"cases.csv", "dice.png", "hd95.png"}, 2),
]
IDS = ["boxes", "no boxes", "masks", "volumes"]
SETTINGS = {"Model": {"file": "runs/one/best.safetensors"}, "Data": {"data set": "data/cells"}}


@pytest.mark.parametrize(("evaluator", "files", "num_charts"), CASES, ids=IDS)
def test_what_an_evaluation_leaves_behind(
    tmp_path: Path, evaluator: Evaluator, files: set[str], num_charts: int
) -> None:
    metrics = evaluator.compute()
    table = write_report(evaluator, metrics, tmp_path / "out", SETTINGS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == files | {"metrics.json", "report.html"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())[metrics.primary] == metrics[metrics.primary]
    assert metrics.primary in table
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == num_charts
    assert "<h1>best.safetensors on cells</h1>" in page
    # The page by itself is the same, and writes nothing else.
    assert without_images(render(make_report(evaluator, metrics, SETTINGS))) == without_images(page)


def without_images(page: str) -> str:
    return re.sub('base64,[^"]*', "", page)


def test_charts_of_an_earlier_evaluation_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "pr_curve.png").write_bytes(b"old")
    write_report(volumes(), volumes().compute(), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2  # Dice and HD95
    assert not (tmp_path / "pr_curve.png").exists()


def test_a_run_shows_its_course(tmp_path: Path) -> None:
    records = [{"epoch": 0, "loss": 2.0, "mIoU": 0.1}, {"epoch": 1, "loss": 1.0, "mIoU": 0.2}]
    write_report(masks(), masks().compute(), tmp_path, records=records)
    assert (tmp_path / "history.png").stat().st_size > 1000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Course of the training" in page
    assert "<h1>Evaluation</h1>" in page


def test_a_title_names_model_and_data_or_neither(tmp_path: Path) -> None:
    for name, settings in SETTINGS.items():
        folder = tmp_path / "not yet there" / name
        write_report(masks(), masks().compute(), folder, {name: settings})
        assert "<h1>Evaluation</h1>" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_counted_the_numbers_is_named(tmp_path: Path) -> None:
    for evaluator, named in ((boxes(), True), (masks(), False), (volumes(), False)):
        write_metrics(evaluator, evaluator.compute(), tmp_path / "metrics.json")
        assert ("evaluator" in json.loads((tmp_path / "metrics.json").read_text())) == named


def test_classes_without_truth_are_named_where_there_are_any(tmp_path: Path) -> None:
    for evaluator, absent in ((masks(), None), (boxes(), ["background"])):
        write_metrics(evaluator, evaluator.compute(), tmp_path / "metrics.json")
        assert json.loads((tmp_path / "metrics.json").read_text()).get("classes_without_truth") == absent
