"""What an evaluation leaves behind: the table, ``metrics.json``, the files of its evaluator, and a page with it all."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.engine.reports.html_report import Chart, Report, write_html
from detseg.engine.reports.plots import plot_history
from detseg.engine.reports.report_images import ReportImages
from detseg.evaluation.base import Evaluator
from detseg.evaluation.doubts import FILE_NAME as DOUBTS_NAME
from detseg.evaluation.doubts import write_doubts
from detseg.evaluation.per_image import FILE_NAME as TABLE_NAME
from detseg.evaluation.per_image import write_table
from detseg.evaluation.report import format_table, write_metrics_json
from detseg.files import holds_keys
from detseg.structures import Metrics

REPORT_NAME = "report.html"
HISTORY_NAME = "history.png"

_CHARTS = {
    "pr_curve.png": "Precision over recall at IoU 0.5",
    "f1_curve.png": "F1 over confidence at IoU 0.5",
    "calibration.png": "Share of boxes that are right over their score, at IoU 0.5",
    "confusion_matrix.png": "Confusion matrix: rows are the truth, columns the prediction",
    "iou.png": "IoU of each class",
    "dice.png": "Dice of each case, by class",
    "hd95.png": "95th percentile of the distances of surfaces of each case, by class",
    HISTORY_NAME: "Course of the training",
}
"""The files of evaluators that a page shows, in this order, with what they show."""

_CASES_NAME = "cases.csv"
_MOST_CASES = 200
"""Of those on a page; the file has all."""

_HEADLINES = ("AP", "mIoU", "Dice")
"""Of the metrics of every task one of these is first."""

METRICS_NAME = "metrics.json"
FILE_NAMES = (METRICS_NAME, TABLE_NAME, DOUBTS_NAME, REPORT_NAME, "detections.json", _CASES_NAME, *_CHARTS)
"""All that an evaluation may write into its folder, beside images."""

Settings = Mapping[str, Mapping[str, Any]]
"""What was measured with what: sections of named values, see ``detseg.engine.reports.describe``."""


def write_report(
    evaluator: Evaluator,
    metrics: Metrics,
    output: Path,
    settings: Settings | None = None,
    images: ReportImages | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    skipped: Sequence[str] = (),
    names: Mapping[int, str] | None = None,
) -> str:
    """Write ``metrics.json``, ``images.json`` for comparisons, what the evaluator has to show, and ``report.html`` with
    all of it to ``output``; with the ``records`` of a training run also ``history.png``. ``skipped`` says which images
    were left out, and why; ``names`` are those of the files by the ids of their images.

    Returns:
        The metrics as a table for the screen.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_metrics(evaluator, metrics, output / METRICS_NAME, skipped)
    if images is not None and images.table is not None:
        write_table(output / TABLE_NAME, images.table)
    if images is not None and images.doubts:
        write_doubts(output / DOUBTS_NAME, images.doubts)
    else:
        (output / DOUBTS_NAME).unlink(missing_ok=True)
    for name in _CHARTS:
        (output / name).unlink(missing_ok=True)  # what an earlier evaluation left would be shown as one of this
    write_html(output / REPORT_NAME, _assemble(evaluator, metrics, output, settings, images, records, names))
    return format_table(metrics, evaluator.classes_without_truth())


def make_report(
    evaluator: Evaluator,
    metrics: Metrics,
    settings: Settings | None = None,
    images: ReportImages | None = None,
    records: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """All that :func:`write_report` shows, for :func:`detseg.engine.reports.html_report.write_html`."""
    with tempfile.TemporaryDirectory() as folder:
        return _assemble(evaluator, metrics, Path(folder), settings, images, records)


def is_metrics(path: Path) -> bool:
    """Whether the file ``path`` holds what :func:`write_metrics` writes."""
    return any(holds_keys(path, name) for name in _HEADLINES)


def write_metrics(evaluator: Evaluator, metrics: Metrics, path: Path, skipped: Sequence[str] = ()) -> None:
    """Write ``metrics`` as flat JSON, with what counted them, the classes about which nothing can be said, and what was
    ``skipped``."""
    extra: dict[str, Any] = {**evaluator.facts()}
    if absent := evaluator.classes_without_truth():
        extra["classes_without_truth"] = list(absent)
    if skipped:
        extra |= {"num_skipped": len(skipped), "skipped": list(skipped)}
    write_metrics_json(path, metrics, extra)


def _assemble(
    evaluator: Evaluator,
    metrics: Metrics,
    folder: Path,
    settings: Settings | None,
    images: ReportImages | None,
    records: Sequence[Mapping[str, Any]],
    names: Mapping[int, str] | None = None,
) -> Report:
    evaluator.write_artifacts(folder, names)
    if records:
        plot_history(records, folder / HISTORY_NAME)
    charts = tuple(
        Chart(title, (folder / name).read_bytes()) for name, title in _CHARTS.items() if (folder / name).exists()
    )
    settings = settings or {}
    cases = _read_cases(folder / _CASES_NAME)
    return Report(
        metrics,
        evaluator.classes_without_truth(),
        charts,
        images or ReportImages(),
        settings,
        title=_title(settings),
        cases=cases[: 1 + _MOST_CASES],
        num_cases=max(0, len(cases) - 1),
        class_names=images.class_names if images else (),
        errors=evaluator.error_table(),
    )


def _read_cases(path: Path) -> list[list[str]]:
    """The table of cases where the evaluator wrote one: names of columns, then the rows by the first score, worst
    first; those that do not count are left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    column = header.index("class") + 1
    judged = [row for row in rows if row[column]]
    return [header, *sorted(judged, key=lambda row: float(row[column]))]


def _title(settings: Settings) -> str:
    """What was evaluated on what, as far as it is told."""
    model, data = settings.get("Model", {}).get("file"), settings.get("Data", {}).get("data set")
    return f"{Path(model).name} on {Path(data).name}" if model and data else "Evaluation"
