from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg.evaluation.report import format_table, write_metrics_json
from detseg.structures import Metrics

METRICS = Metrics({"AP": 0.25, "AP50": 0.5, "AP_small": -1.0, "AP/red cell": 0.25, "AP50/red cell": 0.5})


def test_table() -> None:
    assert format_table(METRICS, ["white cell"]).splitlines() == [
        "AP          0.2500  IoU 0.50:0.95, all sizes, 100 detections",
        "AP50        0.5000  IoU 0.50",
        "AP_small         -  objects below 32x32 px",
        "",
        "class             AP    AP50",
        "red cell      0.2500  0.5000",
        "",
        "no ground truth: white cell",
    ]


def test_table_of_segmentation() -> None:
    values = {"mIoU": 0.5, "pixel_accuracy": 0.75, "mean_accuracy": 1.0}
    metrics = Metrics({**values, "IoU/road": 1.0, "IoU/traffic light": 0.0, "accuracy/road": 1.0}, primary="mIoU")
    assert format_table(metrics, ["traffic light"]).splitlines() == [
        "mIoU            0.5000  IoU, mean of the classes",
        "pixel_accuracy  0.7500  share of the labeled pixels that are right",
        "mean_accuracy   1.0000  share of a class's pixels that are right, mean of the classes",
        "",
        "class               IoU  accuracy",
        "road             1.0000    1.0000",
        "traffic light    0.0000         -",
        "",
        "no ground truth: traffic light",
    ]


def test_table_without_classes() -> None:
    assert format_table(Metrics({"AP": 1.0})) == "AP          1.0000  IoU 0.50:0.95, all sizes, 100 detections"


def test_class_names_may_hold_slashes() -> None:
    table = format_table(Metrics({"AP": 0.0, "AP/car/truck": 0.125}))
    assert table.splitlines()[-1].split() == ["car/truck", "0.1250"]


def test_metrics_json_is_flat_and_exact(tmp_path: Path) -> None:
    write_metrics_json(tmp_path / "metrics.json", METRICS, {"data": "bccd", "classes_without_truth": ["white cell"]})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {**METRICS, "data": "bccd", "classes_without_truth": ["white cell"]}
    assert list(written)[:5] == list(METRICS)


def test_class_names_are_written_as_they_are(tmp_path: Path) -> None:
    write_metrics_json(tmp_path / "metrics.json", Metrics({"AP": 0.5, "AP/Straße": 0.5}))
    assert '"AP/Straße": 0.5' in (tmp_path / "metrics.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("metrics", "extra", "message"),
    [
        (Metrics({"AP": float("nan")}), None, "finite numbers only, got AP=nan"),
        (METRICS, {"AP50": "x"}, "must not have the names of metrics: AP50"),
        (METRICS, {"seconds": float("nan")}, "not JSON compliant"),
    ],
)
def test_metrics_json_refuses(tmp_path: Path, metrics: Metrics, extra: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_metrics_json(tmp_path / "metrics.json", metrics, extra)
    assert not list(tmp_path.iterdir())
