"""Tables of classes and colors that other programs lay beside masks."""

from __future__ import annotations

import csv
from pathlib import Path

from detseg.data.parsing import as_integer, show
from detseg.data.source import DatasetError, read_lines

_CVAT, _CSV = "labelmap.txt", "class_dict.csv"


def read_color_table(root: Path) -> tuple[list[str], list[list[int]]] | None:
    """The names and the RGB colors in CVAT's ``labelmap.txt`` (``name:r,g,b:parts:actions``) or in a ``class_dict.csv``
    (``name,r,g,b``) in ``root``; None where there is neither.

    Raises:
        DatasetError: a line is none of these.
    """
    if (root / _CVAT).is_file():
        lines = [line for line in read_lines(root / _CVAT) if not line.startswith("#")]
        rows = [[name, *color.split(",")] for name, color in (_parts(line) for line in lines)]
        return _checked(rows, root / _CVAT)
    if (root / _CSV).is_file():
        rows = list(csv.reader(read_lines(root / _CSV)))
        return _checked(rows[1:] if rows and _color(rows[0]) is None else rows, root / _CSV)
    return None


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
