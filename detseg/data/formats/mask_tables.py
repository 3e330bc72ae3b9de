"""Tables of classes and colors that other programs lay beside masks."""

from __future__ import annotations

import csv
from pathlib import Path

from detseg.data.entries.parsing import as_integer, show
from detseg.data.source import DatasetError, read_lines

_CVAT, _CSV = "labelmap.txt", "class_dict.csv"
_COLUMNS = (("name", "class_name", "class", "label"), ("r", "red"), ("g", "green"), ("b", "blue"))
"""What the columns of a CSV file may be called."""


def read_color_table(root: Path) -> tuple[list[str], list[list[int]]] | None:
    """The names and the RGB colors in CVAT's ``labelmap.txt`` (``name:r,g,b:parts:actions``) or in a ``class_dict.csv``
    in ``root``; None where there is neither. The columns of that are those that its first line names, else ``name, r,
    g, b``; there may be others.

    Raises:
        DatasetError: a line is none of these.
    """
    if (root / _CVAT).is_file():
        lines = [line for line in read_lines(root / _CVAT) if not line.startswith("#")]
        rows = [[name, *color.split(",")] for name, color in (_parts(line) for line in lines)]
        return _checked(rows, root / _CVAT)
    if (root / _CSV).is_file():
        return _checked(_in_order(read_lines(root / _CSV)), root / _CSV)
    return None


def _in_order(lines: list[str]) -> list[list[str]]:
    """The rows of a CSV file with name, red, green and blue in this order, without the line that says so."""
    # Where a comma stands in numbers, programs write semicolons between them.
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    if not rows or _color(rows[0]) is not None:
        return rows
    titles = [title.strip().lower() for title in rows[0]]
    places = [[titles.index(title) for title in words if title in titles] for words in _COLUMNS]
    if not all(places):
        return rows[1:]
    chosen = [found[0] for found in places]
    return [[row[place] for place in chosen] if max(chosen) < len(row) else row for row in rows[1:]]


def _parts(line: str) -> tuple[str, str]:
    """The name and the color of a line of CVAT's; a name may hold colons, what follows it does not."""
    name, color, *_ = line.rsplit(":", 3) if line.count(":") >= 3 else (line, "")
    return name, color


def _color(row: list[str]) -> list[int] | None:
    """The color behind the name in a row, None where there is none."""
    values = [as_integer(text.strip()) for text in row[1:4]]
    color = [value for value in values if value is not None and 0 <= value <= 255]
    return color if len(color) == 3 else None


def _checked(rows: list[list[str]], path: Path) -> tuple[list[str], list[list[int]]]:
    names, colors = [], []
    for row in rows:
        color = _color(row)
        if color is None:
            raise DatasetError(f"{path}: expected a name and red, green and blue from 0 to 255, got {show(row)}")
        names.append(row[0].strip())
        colors.append(color)
    return names, colors
