"""Images of evaluation results. matplotlib is imported when an image is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.evaluation.objects.calibration import LOWEST_SCORE, Calibration
from detseg.evaluation.objects.confusion import ConfusionMatrix
from detseg.evaluation.objects.f1 import F1Curve
from detseg.evaluation.objects.precision_recall import PrecisionRecallCurve
from detseg.files import atomic_path

_MOST_NAMED_CURVES = 10
_MOST_ROWS_WITH_TEXTS = 21
_MOST_ROWS_WITH_NAMES = 251
_MOST_LARGE_BARS = 40
_MOST_LETTERS = 32
_DOTS_PER_INCH = 150


def plot_pr_curves(curves: Sequence[PrecisionRecallCurve], path: Path) -> None:
    """Draw precision over recall to a PNG: each class and their mean.

    With more than ten classes only the three best and the three worst carry a color and a name.

    Raises:
        ValueError: there is no curve, or the curves differ in their IoU threshold.
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    ious = {curve.iou for curve in curves}
    if len(ious) != 1:
        raise ValueError(f"expected curves at one IoU threshold, got {len(curves)} curves at {sorted(ious)}")
    ranked = sorted(curves, key=lambda curve: -curve.average_precision)
    are_all_named = len(ranked) <= _MOST_NAMED_CURVES
    named = ranked if are_all_named else ranked[:3] + ranked[-3:]

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    if not are_all_named:
        for curve in ranked[3:-3]:
            axes.plot(curve.recall, curve.precision, color="0.82", linewidth=0.8)
    for curve in named:
        axes.plot(
            curve.recall, curve.precision, linewidth=1.5, label=_legend_entry(curve.class_name, curve.average_precision)
        )
    mean = np.mean([curve.precision for curve in curves], axis=0)
    label = _legend_entry(f"mean of {len(ranked)} classes", float(mean.mean()))
    axes.plot(curves[0].recall, mean, color="black", linewidth=2.5, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"Precision and recall at IoU {curves[0].iou:.2f}")
    axes.grid(color="0.93")
    title = "average precision" if are_all_named else "average precision:\nthree best, three worst"
    axes.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small", alignment="left"
    )
    _save(figure, path)


def plot_f1_curves(curves: Sequence[F1Curve], path: Path) -> None:
    """Draw F1 over confidence to a PNG: each class, and a dot at its best. All boxes count, of every score.

    With more than ten classes only the three best and the three worst carry a color and a name.

    Raises:
        ValueError: there is no curve.
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("expected at least one curve")
    ranked = sorted(curves, key=lambda curve: -curve.best()[0])
    are_all_named = len(ranked) <= _MOST_NAMED_CURVES
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for rank, curve in enumerate(ranked):
        # What is shown at a confidence is shown down to the next.
        confidences, f1 = curve.confidences[::-1], curve.f1[::-1]
        if are_all_named or rank < 3 or rank >= len(ranked) - 3:
            best, confidence = curve.best()
            label = _legend_entry(curve.class_name, best) + (f" at {confidence:.2f}" if best > 0 else "")
            (line,) = axes.step(confidences, f1, where="pre", linewidth=1.5, label=label)
            if best > 0:
                axes.plot(confidence, best, marker="o", markersize=5, color=line.get_color())
        else:
            axes.step(confidences, f1, where="pre", color="0.82", linewidth=0.8, zorder=1)
    axes.set(xlabel="confidence", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"F1 over confidence at IoU {curves[0].iou:.2f}")
    axes.grid(color="0.93")
    title = "best F1" if are_all_named else "best F1:\nthree best, three worst"
    axes.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small", alignment="left"
    )
    _save(figure, path)


def plot_calibration(calibration: Calibration, path: Path) -> None:
    """Draw the share of boxes that are right over their score to a PNG: a bar for each bin, beside the diagonal where
    scores are what they say, and how many boxes the bins hold.

    Raises:
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(calibration.num_boxes)
    filled = np.flatnonzero(calibration.num_boxes)
    left = filled * width
    axes.bar(left, calibration.precision[filled], width, align="edge", color="tab:blue", edgecolor="white")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="dashed", label="as scores say")
    axes.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"Calibration of scores from {LOWEST_SCORE:g} on, error {calibration.error:.3f}")
    axes.legend(loc="upper left", frameon=False)
    counts.bar(left, calibration.num_boxes[filled], width, align="edge", color="0.6", edgecolor="white")
    counts.set(xlabel="score", ylabel="boxes")
    for one in (axes, counts):
        one.grid(color="0.93")
        one.set_axisbelow(True)
    _save(figure, path)


def plot_confusion_matrix(matrix: ConfusionMatrix, path: Path) -> None:
    """Draw the confusion of objects to a PNG: rows are the truth, columns the prediction, colors the share of the row.

    Counts are written into the cells of up to 20 classes; names stand beside up to 250, positions beside more.

    Raises:
        SaveError: the file cannot be written.
    """
    names = [*matrix.class_names, "background"]
    title = f"Confusion at confidence {matrix.confidence:g}, IoU {matrix.iou:g}"
    _draw_matrix(matrix.counts, names, names, title, lambda count, _: str(count), path)


def plot_pixel_confusion(counts: IntArray, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix of pixels ``[C, C + 1]``, whose last column is ignored, to a PNG like that of objects.

    The cells of up to 21 classes hold percents of the row; an empty cell has no pixel at all. The column of ignored is
    shown only where it has one.

    Raises:
        SaveError: the file cannot be written.
    """
    num_columns = len(class_names) + bool(counts[:, -1].any())
    _draw_matrix(
        counts[:, :num_columns],
        class_names,
        [*class_names, "ignored"][:num_columns],
        "Confusion of pixels, in percent of the row",
        lambda _, share: f"{100 * share:.0f}",
        path,
    )


def plot_class_scores(scores: Mapping[str, float], mean: float, name: str, path: Path) -> None:
    """Draw ``scores`` in [0, 1] by class to a PNG: one bar each, the best on top, and a line at their ``mean``.

    Raises:
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    ranked = sorted(scores.items(), key=lambda item: item[1])
    values = [value for _, value in ranked]
    rows = range(len(ranked))
    inches_per_row, type_size = (0.3, 10) if len(ranked) <= _MOST_LARGE_BARS else (0.14, 7)
    figure = Figure(figsize=(8, 1.5 + inches_per_row * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(rows, values, color="tab:blue", height=0.7)
    for row, value in zip(rows, values, strict=True):
        # readable where the line of the mean passes
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=0.8 * type_size, bbox=box)
    axes.axvline(mean, color="black", linewidth=1.5, label=f"mean {mean:.3f}")
    axes.set_yticks(rows, [_as_text(class_name) for class_name, _ in ranked], fontsize=type_size)
    axes.set(xlabel=name, xlim=(0, 1.1), ylim=(-0.6, len(ranked) - 0.4))
    axes.grid(axis="x", color="0.93")
    axes.set_axisbelow(True)
    axes.set_title(f"{name} by class")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def plot_case_scores(
    scores: Mapping[str, DoubleArray], name: str, path: Path, span: tuple[float, float | None] = (-0.02, 1.02)
) -> None:
    """Draw ``scores`` within ``span`` of single cases, by class, to a PNG: a dot for each case and a box from the first
    to the third quartile with the median in it, in the order of the classes from the top.

    Raises:
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = np.arange(len(scores))[::-1]
    inches_per_row, type_size = (0.6, 10) if len(scores) <= _MOST_LARGE_BARS else (0.14, 7)
    figure = Figure(figsize=(8, 1.5 + inches_per_row * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    # Dots are spread over the height of a row, the same way in every run.
    generator = np.random.default_rng(0)
    for row, values in zip(rows, scores.values(), strict=True):
        heights = row + generator.uniform(-0.22, 0.22, len(values))
        # Said once, by the first row.
        told = "a case" if row == rows[0] else None
        axes.scatter(values, heights, s=14, color="tab:blue", alpha=0.6, linewidths=0, label=told)
        if len(values):
            low, median, high = np.percentile(values, (25, 50, 75))
            axes.barh(row, high - low, left=low, height=0.6, facecolor="none", edgecolor="black")
            axes.vlines(median, row - 0.3, row + 0.3, color="black", linewidth=2)
    axes.set_yticks(rows, [f"{_as_text(name)} ({len(values)})" for name, values in scores.items()], fontsize=type_size)
    axes.set(xlabel=name, xlim=span, ylim=(-0.6, len(scores) - 0.4))
    axes.grid(axis="x", color="0.93")
    axes.set_axisbelow(True)
    axes.set_title(f"{name} of each case; boxes: quartiles, bars: median")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    _save(figure, path)


def _draw_matrix(
    counts: IntArray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    cell_text: Callable[[int, float], str],
    path: Path,
) -> None:
    """``cell_text`` turns a count above 0 and its share of the row into what stands in the cell."""
    from matplotlib.figure import Figure

    num_rows, num_columns = counts.shape
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    are_texts_shown = num_rows <= _MOST_ROWS_WITH_TEXTS
    are_names_shown = num_rows <= _MOST_ROWS_WITH_NAMES
    # room for one line of small type per class
    inches_per_row, type_size = (0.5, 10) if are_texts_shown else (0.14, 7)
    side = max(5.0, 2.0 + inches_per_row * num_rows) if are_names_shown else 12.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if are_names_shown:
        axes.set_xticks(range(num_columns), map(_as_text, column_names), rotation=90, fontsize=type_size)
        axes.set_yticks(range(num_rows), map(_as_text, row_names), fontsize=type_size)
        axes.hlines(np.arange(0.5, num_rows - 1), -0.5, num_columns - 0.5, color="0.9", linewidth=0.5)
        axes.vlines(np.arange(0.5, num_columns - 1), -0.5, num_rows - 0.5, color="0.9", linewidth=0.5)
    axes.set(xlabel="prediction", ylabel="truth")
    axes.set_title(title)
    if are_texts_shown:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = cell_text(int(counts[row, column]), float(shares[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the row", fraction=0.04, pad=0.02)
    _save(figure, path)


def _legend_entry(name: str, value: float) -> str:
    return f"{value:.3f}  {_as_text(name)}"


def _as_text(name: str) -> str:
    # A longer name would take the room of what it names.
    if len(name) > _MOST_LETTERS:
        name = f"{name[: _MOST_LETTERS - 9]}…{name[-8:]}"
    # a dollar sign would start a formula
    return name.replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)
