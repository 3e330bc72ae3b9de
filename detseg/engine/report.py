"""What an evaluation leaves behind: the table, ``metrics.json``, the detections and the pictures."""

from __future__ import annotations

from pathlib import Path

from detseg.evaluation.coco_map import CocoEvaluator
from detseg.evaluation.plots import plot_confusion_matrix, plot_pr_curves
from detseg.evaluation.report import format_table, write_metrics_json
from detseg.runtime.coco_results import write_results
from detseg.structures import Metrics


def write_report(evaluator: CocoEvaluator, metrics: Metrics, output: Path) -> str:
    """Write ``metrics.json``, ``detections.json``, ``pr_curve.png`` and ``confusion_matrix.png`` to ``output``.

    Returns:
        The metrics as a table for the screen.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_metrics(evaluator, metrics, output / "metrics.json")
    write_results(output / "detections.json", evaluator.results())
    curves = evaluator.precision_recall_curves()
    if curves:
        plot_pr_curves(curves, output / "pr_curve.png")
    plot_confusion_matrix(evaluator.confusion_matrix(), output / "confusion_matrix.png")
    return format_table(metrics, evaluator.classes_without_truth())


def write_metrics(evaluator: CocoEvaluator, metrics: Metrics, path: Path) -> None:
    """Write ``metrics`` as flat JSON, with the classes about which nothing can be said."""
    absent = evaluator.classes_without_truth()
    write_metrics_json(path, metrics, {"classes_without_truth": list(absent)} if absent else None)
