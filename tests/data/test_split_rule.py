from __future__ import annotations

from collections.abc import Sequence

import pytest

from detseg.data.split_rule import divide, folds

NAMES = [f"case_{number:03d}" for number in range(208)]


@pytest.mark.parametrize(
    ("count", "ratios", "sizes"),
    [
        (208, (8, 2), [166, 42]),
        (208, "8:2", [166, 42]),
        (10, (6, 2, 2), [6, 2, 2]),
        (7, (6, 2, 2), [4, 2, 1]),  # quotas 4.2, 1.4, 1.4: the remainder goes to the earlier of equals
        (2, (1, 1), [1, 1]),
    ],
)
def test_sizes_by_largest_remainder(count: int, ratios: str | Sequence[float], sizes: list[int]) -> None:
    parts = divide(NAMES[:count], ratios, seed=0)
    assert [len(part) for part in parts] == sizes
    assert sorted(name for part in parts for name in part) == NAMES[:count]
    assert all(part == sorted(part) for part in parts)


def test_a_split_is_that_of_the_set_and_the_seed() -> None:
    parts = divide(NAMES, (8, 2), seed=0)
    assert divide(NAMES[::-1], (8, 2), seed=0) == parts
    assert divide(NAMES, (4, 1), seed=0) == parts
    other = divide(NAMES, (8, 2), seed=1)
    # Two random fifths share a fifth: 8.4 of 42 on average, with a standard deviation of 2.3.
    assert 1 <= len(set(parts[1]) & set(other[1])) <= 17


def test_the_split_is_the_same_for_good() -> None:
    """sha256sum of "0|a" to "0|e" begins with 32, 7a, 1d, c7 and 86: the order is c, a, b, e, d."""
    assert divide("abcde", (3, 2), seed=0) == [["a", "b", "c"], ["d", "e"]]
    assert folds("abcde", 2, seed=0)[0] == (["a", "e"], ["b", "c", "d"])


def test_every_name_is_held_out_once() -> None:
    parts = folds(NAMES, 5, seed=3)
    assert sorted(len(val) for _, val in parts) == [41, 41, 42, 42, 42]
    assert sorted(name for _, val in parts for name in val) == NAMES
    for train, val in parts:
        assert sorted([*train, *val]) == NAMES
        assert train == sorted(train)
    assert folds(NAMES[::-1], 5, seed=3) == parts
    assert folds(NAMES, 5, seed=4) != parts


@pytest.mark.parametrize("num_folds", [-1, 0, 1, 4])
def test_a_number_of_folds_that_cannot_be(num_folds: int) -> None:
    with pytest.raises(ValueError, match=rf"from 2 to that of the volumes, 3; got {num_folds}"):
        folds("abc", num_folds, seed=0)


@pytest.mark.parametrize(
    ("names", "ratios", "message"),
    [
        ("a", (8, 2), "1 images cannot be divided into 2 splits"),
        ("abc", (8,), "ratios must be two or three positive numbers"),
        ("abca", (1, 1), "names to be divided must differ"),
    ],
)
def test_what_cannot_be_divided(names: str, ratios: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divide(names, ratios, seed=0)
    if "differ" in message:
        with pytest.raises(ValueError, match=message):
            folds(names, 2, seed=0)
