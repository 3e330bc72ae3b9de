"""The course of a training run as an image. matplotlib is imported when an image is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from detseg.files import atomic_path

# label of the axis: which records' entries it shows, as patterns
PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "loss/*", "loss_*", "*_loss"),
    "metric": ("AP", "AP50", "AP75", "AR100", "mIoU", "pixel_accuracy", "Dice", "Dice/*"),
    "HD95 (mm)": ("HD95", "HD95/*"),
    "learning rate": ("lr", "lr/*", "learning_rate", "learning_rate/*"),
}


_MANY_CURVES = 8


def plot_history(
    records: Sequence[Mapping[str, Any]], path: Path, panels: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Draw the records of ``metrics.jsonl`` to a PNG: one panel each for losses, metrics and learning rate.

    A record is flat and has an ``epoch``, counted from 0, or else a ``step``. Entries that no pattern of ``panels``
    (by default :data:`PANELS`) names, and values that are no finite numbers, are not drawn; nor is a panel without
    curves.

    Raises:
        ValueError: there is nothing to draw.
        SaveError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = PANELS if panels is None else panels
    position = "epoch" if any("epoch" in record for record in records) else "step"
    curves_by_panel = {
        label: _without_twins(_curves(records, position, patterns)) for label, patterns in panels.items()
    }
    curves_by_panel = {label: curves for label, curves in curves_by_panel.items() if curves}
    if not curves_by_panel:
        raise ValueError(f"none of the {len(records)} records holds an epoch or a step and a number to draw")

    figure = Figure(figsize=(5.5 * len(curves_by_panel), 4), layout="constrained")
    for column, (label, curves) in enumerate(curves_by_panel.items(), start=1):
        axes = figure.add_subplot(1, len(curves_by_panel), column)
        for name, (positions, values) in curves.items():
            # a lone point would be invisible as a line
            axes.plot(positions, values, linewidth=1.5, marker="o" if len(values) == 1 else None, label=name)
        axes.set(xlabel=position, ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.93")
        crowded = len(curves) > _MANY_CURVES
        axes.legend(frameon=False, fontsize="xx-small" if crowded else "small", ncols=2 if crowded else 1)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _without_twins(
    curves: Mapping[str, tuple[list[float], list[float]]],
) -> dict[str, tuple[list[float], list[float]]]:
    """``curves``, each drawn once: where a loss has one part only, the part is the whole, and one name says both."""
    names: dict[tuple[tuple[float, ...], tuple[float, ...]], list[str]] = {}
    for name, (positions, values) in curves.items():
        names.setdefault((tuple(positions), tuple(values)), []).append(name)
    return {" = ".join(same): (list(positions), list(values)) for (positions, values), same in names.items()}


def _curves(
    records: Sequence[Mapping[str, Any]], position: str, patterns: Sequence[str]
) -> dict[str, tuple[list[float], list[float]]]:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        if not _is_finite_number(record.get(position)):
            continue
        for name, value in record.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns) and _is_finite_number(value):
                positions, values = curves.setdefault(name, ([], []))
                positions.append(record[position])
                values.append(value)
    return curves


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
