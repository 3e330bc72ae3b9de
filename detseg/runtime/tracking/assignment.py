"""Who belongs to whom: the matching of rows to columns with the largest total weight, exact, in numpy."""

from __future__ import annotations

import numpy as np

from detseg.arrays import DoubleArray, IntArray


def match(weights: DoubleArray) -> IntArray:
    """The column of each row, or -1, in a matching of largest total weight among pairs whose weight is above 0.

    ``weights`` ``[R, C]`` float64, finite -> ``[R]`` int64. Nobody has to be matched: pairs at or below 0 never are,
    and a good pair may leave two others alone if it outweighs them. Of equally good matchings the one found depends on
    ``weights`` alone; where rows are equal, the first is served first.

    Shortest augmenting paths (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
    assignment problems", 1987) on the form of the problem in which a row or column may stay alone. O(R^2 C) at worst;
    rows that do not compete for a column cost one pass together.

    Raises:
        ValueError: if ``weights`` is not a matrix of finite numbers.
    """
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise ValueError(f"weights must be a matrix of finite numbers, got shape {weights.shape}")
    column_of_row = np.full(len(weights), -1)
    # A row or column without a good pair stays alone, and would only make every search longer.
    rows, columns = (np.nonzero((weights > 0).any(axis=axis))[0] for axis in (1, 0))
    if len(rows):
        found = _Search(weights[np.ix_(rows, columns)]).solve()
        column_of_row[rows] = np.where(found < 0, -1, columns[found])
    return column_of_row


class _Search:
    """The matching as it grows, with prices that prove it best.

    Prices are never negative, and those of a row and a column together never below the weight of the pair. A matching
    whose pairs cost exactly their weight, and in which whoever stays alone has price 0, is therefore the best one.
    """

    def __init__(self, weights: DoubleArray) -> None:
        self.weights = weights
        self.row_prices = weights.max(axis=1)
        self.column_prices = np.zeros(weights.shape[1])
        self.column_of_row = np.full(weights.shape[0], -1)
        self.row_of_column = np.full(weights.shape[1], -1)

    def solve(self) -> IntArray:
        """The column of each row, or -1."""
        # Each row that is the first to name a column as its best has it for a start, at no cost to anyone.
        columns, rows = np.unique(self.weights.argmax(axis=1), return_index=True)
        self.column_of_row[rows], self.row_of_column[columns] = columns, rows
        for row in np.nonzero(self.column_of_row < 0)[0].tolist():
            self._serve(row)
        return self.column_of_row

    def _serve(self, start: int) -> None:
        """Give row ``start`` a column, or leave alone whoever loses least by it, and pass columns on as needed."""
        # Cost of the cheapest way to each column: a way gives a column to a row and takes from that row the one it had.
        costs = self.row_prices[start] + self.column_prices - self.weights[start]
        giver = np.full(len(costs), start)
        open_columns = np.ones(len(costs), np.bool_)
        reached_rows, row_costs = [start], [0.0]
        loser, loss = start, float(self.row_prices[start])
        while True:
            column = int(np.where(open_columns, costs, np.inf).argmin())
            cost = float(costs[column]) if open_columns[column] else np.inf
            # A pair at or below 0 costs no less than to leave its row alone: as that wins a tie, none is ever made.
            if loss <= cost:
                # The loser gives its column up, to those on the way that led there.
                cost, column = loss, int(self.column_of_row[loser])
                self.column_of_row[loser] = -1
                break
            owner = int(self.row_of_column[column])
            if owner < 0:
                break
            open_columns[column] = False
            reached_rows.append(owner)
            row_costs.append(cost)
            if cost + self.row_prices[owner] < loss:
                loser, loss = owner, cost + float(self.row_prices[owner])
            through = cost + self.row_prices[owner] + self.column_prices - self.weights[owner]
            cheaper = open_columns & (through < costs)
            costs[cheaper], giver[cheaper] = through[cheaper], owner
        self.row_prices[reached_rows] -= cost - np.array(row_costs)
        closed = ~open_columns
        self.column_prices[closed] += cost - costs[closed]
        while column >= 0:
            row = int(giver[column])
            freed = int(self.column_of_row[row]) if row != start else -1
            self.column_of_row[row], self.row_of_column[column] = column, row
            column = freed
