"""The verb ``compare``: runs beside each other, as a table and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from detseg.engine.reports.html_report import is_html_report, page, table
from detseg.evaluation.compare import Comparison, Interval, compare_tables
from detseg.evaluation.per_image import FILE_NAME, read_table
from detseg.files import printable, require_replaceable, write_text

_NUM_CHANGED = 30


def compare_command(
    runs: Sequence[Path],
    output: Path | None = None,
    json_path: Path | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """``detseg compare``: ``runs`` are folders that ``eval`` or ``train`` wrote; ``output`` is a page. Returns 0.

    Raises:
        FileNotFoundError: a folder holds no ``images.json``.
        ValueError: the runs cannot be compared, or a file is in the way.
    """
    if output is not None:
        if output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"-o writes a page, name a file that ends in .html, got {output}")
        require_replaceable(output, overwrite=overwrite, is_ours=is_html_report)
    if json_path is not None:
        require_replaceable(json_path, overwrite=overwrite)
    compared = compare_tables([read_table(run / FILE_NAME) for run in runs], num_samples, seed)
    names = [printable(run) for run in runs]
    print(_render(compared, names, num_samples))
    if output is not None:
        write_text(output, _page(compared, names, num_samples))
        print(f"page: {output}")
    if json_path is not None:
        write_text(json_path, json.dumps(_plain(compared, names), indent=2, allow_nan=False) + "\n")
    return 0


def _rows(compared: Comparison) -> list[tuple[str, int]]:
    return [("all", 0), *((name, 1 + label) for label, name in enumerate(compared.class_names))]


def _cells(compared: Comparison, row: int) -> list[str]:
    cells = [_words(compared.values[0][row])]
    for values, differences in zip(compared.values[1:], compared.differences[1:], strict=True):
        cells += [_words(values[row]), _words(differences[row], signed=True), _verdict(differences[row])]
    return cells


def _header(compared: Comparison, names: Sequence[str]) -> list[str]:
    header = [f"{compared.measure} of {names[0]}"]
    for name in names[1:]:
        header += [f"{compared.measure} of {name}", "difference", "sure"]
    return header


def _render(compared: Comparison, names: Sequence[str], num_samples: int) -> str:
    rows = [["class", *_header(compared, names)]]
    rows += [[name, *_cells(compared, row)] for name, row in _rows(compared)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    about = f"{len(compared.image_names)} images in common; intervals of 95% from {num_samples} bootstrap samples"
    return "\n".join([about, *lines])


def _page(compared: Comparison, names: Sequence[str], num_samples: int) -> str:
    caption = f"{compared.measure} with intervals of 95%, bootstrap over images ({num_samples} samples)"
    rows = [[name, *_cells(compared, row)] for name, row in _rows(compared)]
    sections = [("classes", "Metrics", table(["class", *_header(compared, names)], rows, caption))]
    for run, name in enumerate(names[1:], start=1):
        changed = [
            [
                compared.image_names[index],
                _number(float(compared.by_image[0, index])),
                _number(float(compared.by_image[run, index])),
                f"{_zero(compared.by_image[run, index]) - _zero(compared.by_image[0, index]):+.3f}",
            ]
            for index in compared.changed(run, _NUM_CHANGED)
        ]
        header = ["image", names[0], name, "change"]
        content = (
            table(header, changed, f"{compared.measure} of the image by itself, those that changed most")
            if changed
            else "<p>No image changed.</p>"
        )
        sections.append((f"changed-{run}", f"Images that changed: {name}", content))
    return page("Comparison", f"{len(compared.image_names)} images in common: {', '.join(names)}", sections)


def _plain(compared: Comparison, names: Sequence[str]) -> dict[str, object]:
    def entry(one: Interval) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in (one.value, one.low, one.high)]

    return {
        "measure": compared.measure,
        "num_images": len(compared.image_names),
        "runs": [
            {
                "run": name,
                "values": {label: entry(compared.values[run][row]) for label, row in _rows(compared)},
                "differences": {label: entry(compared.differences[run][row]) for label, row in _rows(compared)},
            }
            for run, name in enumerate(names)
        ],
    }


def _words(one: Interval, signed: bool = False) -> str:
    if not math.isfinite(one.value):
        return "-"
    sign = "+" if signed else ""
    return f"{one.value:{sign}.4f} ({one.low:{sign}.4f} to {one.high:{sign}.4f})"


def _verdict(difference: Interval) -> str:
    """Whether zero lies outside of the interval."""
    if not math.isfinite(difference.value):
        return "-"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "no"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _zero(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0
