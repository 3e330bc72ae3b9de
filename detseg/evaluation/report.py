"""Evaluation results as text and as ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.evaluation.base import Evaluator
from detseg.files import write_text
from detseg.structures import Metrics

MEANING = {
    "AP": "IoU 0.50:0.95, all sizes, 100 detections",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "AP_small": "objects below 32x32 px",
    "AP_medium": "32x32 to 96x96 px",
    "AP_large": "above 96x96 px",
    "AR1": "recall with 1 detection per image and class",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "AR_small": "recall, objects below 32x32 px",
    "AR_medium": "recall, 32x32 to 96x96 px",
    "AR_large": "recall, above 96x96 px",
    "F1": "best F1 over all objects, IoU 0.50",
    "F1_confidence": "the confidence at which it is reached",
    "F1_chosen": "at the confidence that is chosen for each class, IoU 0.50",
    "ECE": "by how much scores from 0.25 on and the share that is right differ",
    "dAP50_class": "what AP50 would gain without boxes of the wrong class",
    "dAP50_location": "without boxes in the wrong place",
    "dAP50_both": "without boxes of the wrong class in the wrong place",
    "dAP50_duplicate": "without second boxes for an object",
    "dAP50_background": "without boxes where nothing is",
    "dAP50_missed": "without objects that have no box",
    "AP_box": "of the boxes, IoU 0.50:0.95",
    "AP50_box": "of the boxes, IoU 0.50",
    "AP75_box": "of the boxes, IoU 0.75",
    "AP_boundary": "along the edges of the masks, IoU 0.50:0.95",
    "AP50_boundary": "along the edges of the masks, IoU 0.50",
    "AP75_boundary": "along the edges of the masks, IoU 0.75",
    "mIoU": "IoU, mean of the classes",
    "pixel_accuracy": "share of the labeled pixels that are right",
    "mean_accuracy": "share of a class's pixels that are right, mean of the classes",
    "Dice": "overlap of the regions, mean of the classes",
    "HD95": "mm, 95th percentile of the distances between surfaces, mean of the classes",
    "surface_dice": "share of the surfaces within the tolerance, mean of the classes",
}


def all_metrics(evaluator: Evaluator) -> Metrics:
    """What ``evaluator`` measures and, behind it, what it can say of where that comes from.

    Raises:
        ValueError: no image was added.
    """
    metrics = evaluator.compute()
    return Metrics({**metrics, **evaluator.diagnose()}, primary=metrics.primary)


def by_class(metrics: Metrics) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The metrics called ``<name>/<class>`` as columns by name, each with its values by class; and all classes."""
    columns: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        column, slash, class_name = name.partition("/")
        if slash:
            columns.setdefault(column, {})[class_name] = value
    return columns, list(dict.fromkeys(class_name for column in columns.values() for class_name in column))


def format_table(metrics: Metrics, classes_without_truth: Sequence[str] = ()) -> str:
    """The metrics as a plain text table: the numbers over all classes, then one row per class with one column for each
    ``<name>/<class>``. A dash stands for -1, "no ground truth"."""
    overall = {name: value for name, value in metrics.items() if "/" not in name}
    width = max(12, *(len(name) + 2 for name in overall))
    lines = [f"{name:<{width}}{_cell(value)}  {MEANING.get(name, '')}".rstrip() for name, value in overall.items()]
    columns, class_names = by_class(metrics)
    if class_names:
        width = max(12, *(len(class_name) + 2 for class_name in class_names))
        widths = {column: max(8, len(column) + 2) for column in columns}
        lines += ["", "class".ljust(width) + "".join(column.rjust(size) for column, size in widths.items())]
        for class_name in class_names:
            cells = (_cell(columns[name].get(class_name, -1.0)).rjust(size) for name, size in widths.items())
            lines.append(class_name.ljust(width) + "".join(cells))
    if classes_without_truth:
        lines += ["", f"no ground truth: {', '.join(classes_without_truth)}"]
    return "\n".join(lines)


def write_metrics_json(path: Path, metrics: Metrics, extra: Mapping[str, Any] | None = None) -> None:
    """Write the metrics to ``path`` as one flat JSON object, whole or not at all; ``extra`` (any JSON values: the data
    set, the model, ``classes_without_truth``) follows them.

    Raises:
        ValueError: a metric is not finite, or ``extra`` repeats the name of a metric.
        SaveError: the file cannot be written.
    """
    extra = extra or {}
    repeated = [name for name in extra if name in metrics]
    if repeated:
        raise ValueError(f"extra entries must not have the names of metrics: {', '.join(repeated)}")
    infinite = [f"{name}={value}" for name, value in metrics.items() if not math.isfinite(value)]
    if infinite:
        raise ValueError(f"metrics.json holds finite numbers only, got {', '.join(infinite)}")
    write_text(path, json.dumps({**metrics, **extra}, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _cell(value: float) -> str:
    return f"{value:>6.4f}" if value >= 0 else f"{'-':>6}"
