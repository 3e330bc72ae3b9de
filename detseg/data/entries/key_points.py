"""Boxes with key points in YOLO's lines that nobody has told: read as polygons they would be wrong without a word.

A line ``class cx cy w h x1 y1 ...`` may have as many numbers as a polygon ``class x1 y1 x2 y2 ...``. Where each point
is followed by its visibility (0, 1 or 2), a single line tells. Without it, all lines of a split do together: a key
point lies in its box, and all have the same number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detseg.data.records import BoxRecords

TOLERANCE = 0.01
"""How far outside 0 to 1 a number may lie: some tools round carelessly at the border. The box is clipped later."""

_FEW, _MANY = 3, 20
"""From how many lines on, all of which look like key points without visibility, that is named, and refused: of small
polygons with four corners, one in some three looks like it by chance."""


@dataclass
class KeyPointDoubts:
    """What the lines of a split that are read as polygons have in common; ``told``: the YAML says ``kpt_shape``, so
    that there are no doubts."""

    told: bool
    num_values: int = 0
    count: int = 0
    first: tuple[Path, int] | None = None
    alike: bool = True

    def add(self, values: Sequence[float], source: Path, number: int) -> str:
        """Take note of a polygon, the ``values`` after its class; returns what is to be said of it at once, if any."""
        if self.told:
            return ""
        if (num_points := num_visible_points(values)) > 0:
            return (
                f"this seems to be a box with {num_points} key points and their visibility: say kpt_shape: "
                f"[{num_points}, 3] in the YAML, or kpt_shape: null if it is a polygon"
            )
        self.first = self.first or (source, number)
        self.num_values = self.num_values or len(values)
        self.count += 1
        self.alike = self.alike and len(values) == self.num_values and _holds(values, values[4::2], values[5::2])
        return ""

    def judge(self, records: BoxRecords) -> None:
        """Name the lines, if all look like boxes with key points."""
        if self.first is None or not self.alike or self.count < _FEW:
            return
        num_points = self.num_values // 2 - 2
        message = (
            f"all {self.count} lines with {1 + self.num_values} numbers seem to be boxes with {num_points} key points, "
            f"and not polygons: say kpt_shape: [{num_points}, 2] in the YAML, or kpt_shape: null if they are polygons"
        )
        source, number = self.first
        if self.count < _MANY:
            records.report("D015", source, message, number)
        else:
            records.reject("D005", source, message, number)


def num_visible_points(values: Sequence[float]) -> int:
    """How many key points ``x y visibility`` follow the box ``cx cy w h``; 0: this seems to be no such line."""
    visible = values[6::3]
    if len(values) < 10 or (len(values) - 4) % 3 or not set(visible) <= {0.0, 1.0, 2.0}:
        return 0
    return len(visible) if _holds(values, values[4::3], values[5::3]) else 0


def _holds(box_cxcywh: Sequence[float], xs: Sequence[float], ys: Sequence[float]) -> bool:
    """Whether the first four numbers are a box inside of the image that holds all points; those that nobody marked are
    at 0, 0."""
    cx, cy, w, h = box_cxcywh[:4]
    left, right, top, bottom = cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2
    if min(w, h) <= 0 or min(left, top) < -TOLERANCE or max(right, bottom) > 1 + TOLERANCE:
        return False
    return all(
        (left - TOLERANCE <= x <= right + TOLERANCE and top - TOLERANCE <= y <= bottom + TOLERANCE) or x == y == 0
        for x, y in zip(xs, ys, strict=True)
    )
