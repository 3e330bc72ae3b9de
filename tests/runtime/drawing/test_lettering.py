from __future__ import annotations

import numpy as np
import pytest

from detseg.runtime.drawing.lettering import Lettering

RED, BLUE = (200, 0, 0), (0, 0, 200)


def ink_columns(strip: np.ndarray) -> np.ndarray:
    return np.flatnonzero((strip != 255).any(axis=(0, 2)))


def test_text_stays_in_its_line_and_is_as_wide_as_measured() -> None:
    style = Lettering(0.6)
    canvas = style.blank(3 * style.line, 200)
    style.write(canvas, "Hippocampus", 20, style.line)
    rows = np.flatnonzero((canvas != 255).any(axis=(1, 2)))
    assert style.line <= rows.min() < rows.max() < 2 * style.line
    columns = ink_columns(canvas)
    assert 20 <= columns.min() < 26
    assert abs(columns.max() - (20 + style.width("Hippocampus"))) <= 4


def test_letters_shrink_until_they_fit_and_no_further() -> None:
    style = Lettering(0.6)
    assert style.fitted("anterior", style.width("anterior")) is style
    smaller = style.fitted("anterior", 30)
    assert smaller.width("anterior") <= 30 < style.width("anterior")
    assert style.fitted("anterior", style.width("anterior") - 1).scale > 0.85 * style.scale


@pytest.mark.parametrize(("width", "num_lines"), [(400, 1), (120, 2), (20, 2)])
def test_a_legend_takes_as_many_lines_as_it_needs(width: int, num_lines: int) -> None:
    style = Lettering(0.5)
    legend = style.legend([(RED, "anterior"), (BLUE, "posterior")], width)
    assert legend.shape == (num_lines * style.line, width, 3)
    rows = [np.flatnonzero((legend == color).all(axis=2).any(axis=1)) // style.line for color in (RED, BLUE)]
    assert [set(row.tolist()) for row in rows] == [{0}, {num_lines - 1}]


def test_an_empty_legend_is_a_line_of_paper() -> None:
    style = Lettering(0.5, paper=(7, 8, 9))
    assert np.array_equal(style.legend([], 50), style.blank(style.line, 50))
