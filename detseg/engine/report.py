"""What an evaluation leaves behind: the table, ``metrics.json``, and the files of its evaluator."""

from __future__ import annotations

from pathlib import Path

from detseg.evaluation.base import Evaluator
from detseg.evaluation.report import format_table, write_metrics_json
from detseg.structures import Metrics


def write_report(evaluator: Evaluator, metrics: Metrics, output: Path) -> str:
    """Write ``metrics.json`` and what the evaluator has to show to ``output``.

    Returns:
        The metrics as a table for the screen.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_metrics(evaluator, metrics, output / "metrics.json")
    evaluator.write_artifacts(output)
    return format_table(metrics, evaluator.classes_without_truth())


def write_metrics(evaluator: Evaluator, metrics: Metrics, path: Path) -> None:
    """Write ``metrics`` as flat JSON, with the classes about which nothing can be said."""
    absent = evaluator.classes_without_truth()
    write_metrics_json(path, metrics, {"classes_without_truth": list(absent)} if absent else None)
