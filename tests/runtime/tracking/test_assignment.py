"""The matching is the best there is: by hand, against every matching of small cases, and against scipy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from detseg.runtime.tracking.assignment import match


def total(weights: np.ndarray, columns: np.ndarray) -> float:
    """The weight of a matching, after a check that it is one and takes only pairs above 0."""
    rows = np.nonzero(columns >= 0)[0]
    chosen = columns[rows]
    assert len(set(chosen.tolist())) == len(chosen)
    assert (weights[rows, chosen] > 0).all()
    return float(weights[rows, chosen].sum())


def best_total(weights: np.ndarray) -> float:
    """The weight of the best matching, by trying all: with as many empty columns as rows, everyone may stay alone."""
    num_rows, num_columns = weights.shape
    gains = np.concatenate([np.maximum(weights, 0), np.zeros((num_rows, num_rows))], axis=1)
    orders = permutations(range(num_rows + num_columns), num_rows)
    return max(sum(gains[row, column] for row, column in enumerate(order)) for order in orders)


def random_weights(kind: str, num_rows: int, num_columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    weights = random.uniform(-0.5, 1, (num_rows, num_columns))
    if kind == "tied":
        weights = random.integers(-2, 4, (num_rows, num_columns)).astype(np.float64)
    if kind == "sparse":
        weights[random.random(weights.shape) < 0.8] = -0.2
    if kind == "contested":
        # All rows want the same columns, in nearly the same order.
        weights = random.uniform(0, 1, num_columns) + random.uniform(0, 0.1, (num_rows, num_columns))
    return weights


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[0.5]], [0]),
        ([[0.0]], [-1]),
        ([[-0.5]], [-1]),
        # Row 0 would rather have column 0, but then row 1 goes without: 0.6 + 0.7 beats 0.9.
        ([[0.9, 0.6], [0.7, 0.0]], [1, 0]),
        # Here it does not: 0.9 beats 0.2 + 0.6, and row 1 stays alone.
        ([[0.9, 0.2], [0.6, 0.0]], [0, -1]),
        # Two pairs of 0.5 beat one of 0.9, which would leave both others alone.
        ([[0.9, 0.5], [0.5, -0.1]], [1, 0]),
        # The chain moves up: every row gives way to the next one.
        ([[3, 2, 0], [3, 0, 2.5], [2.9, 0, 0]], [1, 2, 0]),
        # More rows than columns, and more columns than rows.
        ([[0.2], [0.4], [0.3]], [-1, 0, -1]),
        ([[0.2, 0.4, 0.3]], [1]),
        # Equal in everything: the first row is served first, with the first column.
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1]),
        ([[0.5], [0.5]], [0, -1]),
        # A row and a column that fit nobody.
        ([[0.0, 0.0, 0.0], [-1, 0.5, 0.4]], [-1, 1]),
    ],
)
def test_by_hand(weights: list[list[float]], expected: list[int]) -> None:
    assert match(np.array(weights)).tolist() == expected


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nobody(shape: tuple[int, int]) -> None:
    matched = match(np.zeros(shape))
    assert matched.tolist() == [-1] * shape[0]
    assert matched.dtype == np.int64


@pytest.mark.parametrize("kind", ["random", "tied", "sparse", "contested"])
def test_equals_the_best_of_all_matchings(kind: str) -> None:
    for seed in range(60):
        num_rows, num_columns = 1 + seed % 4, 1 + seed // 4 % 4
        weights = random_weights(kind, num_rows, num_columns, seed)
        assert total(weights, match(weights)) == pytest.approx(best_total(weights), abs=1e-12), f"seed {seed}"


@pytest.mark.parametrize("kind", ["random", "tied", "sparse", "contested"])
def test_equals_scipy(kind: str) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for seed, shape in enumerate([(7, 7), (12, 30), (30, 12), (25, 25), (60, 60), (1, 40), (40, 1)] * 4):
        weights = random_weights(kind, *shape, seed)
        gains = np.maximum(weights, 0)
        expected = gains[optimize.linear_sum_assignment(gains, maximize=True)].sum()
        assert total(weights, match(weights)) == pytest.approx(expected, abs=1e-9), f"seed {seed}"


def test_the_weights_are_left_as_they_are() -> None:
    weights = random_weights("contested", 9, 9, seed=1)
    before = weights.copy()
    assert match(weights).tolist() == match(weights).tolist()
    assert np.array_equal(weights, before)


@pytest.mark.parametrize("weights", [np.zeros(3), np.array([[0.5, np.nan]]), np.array([[np.inf]])])
def test_what_is_no_matrix_of_numbers_is_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^weights must be a matrix of finite numbers, got shape \("):
        match(weights)
