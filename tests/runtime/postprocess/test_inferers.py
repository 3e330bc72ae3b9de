"""What needs no other library as a reference; for the rest see ``tests/ops``, ``test_twins.py`` above all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from detseg.runtime.postprocess.inferers import sliding_window, softmax, window_starts


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (10, 4, 0.0, (0, 4, 6)),
        (12, 4, 0.0, (0, 4, 8)),
        (10, 4, 0.5, (0, 2, 4, 6)),
        (11, 4, 0.5, (0, 2, 4, 6, 7)),
        (10, 4, 0.25, (0, 3, 6)),
        (6, 4, 0.99, (0, 1, 2)),
        (4, 4, 0.5, (0,)),
        (3, 4, 0.5, (0,)),
        (1, 1, 0.0, (0,)),
        (5, 4, 0.0, (0, 1)),
    ],
)
def test_starts(length: int, window: int, overlap: float, expected: tuple[int, ...]) -> None:
    assert window_starts(length, window, overlap) == expected


def test_windows_cover_everything_and_overlap_enough() -> None:
    for length, window, overlap in itertools.product(range(1, 40, 3), range(1, 20, 2), (0.0, 0.1, 0.3, 0.5, 0.75, 0.9)):
        starts = window_starts(length, window, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - window)
        steps = [after - before for before, after in itertools.pairwise(starts)]
        assert all(0 < step <= max(1, window * (1 - overlap)) for step in steps)


def test_windows_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of the window's size: \[1, K, 4, 4\]; it gave \[1, 2, 2, 2\]"):
        sliding_window(lambda part: part[..., ::2, ::2], np.zeros((1, 2, 4, 4), np.float32), (4, 4), 0.5)


def test_softmax_of_large_logits() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.731059, 0.268941, 0]], rtol=1e-5)
