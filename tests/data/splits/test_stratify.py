"""Ratios, exact sizes and stratification, on numbers that can be followed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from detseg.data.split_rule import exact_sizes, parse_ratios
from detseg.data.splits.stratify import stratify


@pytest.mark.parametrize(
    ("ratios", "shares"),
    [
        ("8:2", (0.8, 0.2)),
        ("6:2:2", (0.6, 0.2, 0.2)),
        ("0.6:0.2:0.2", (0.6, 0.2, 0.2)),
        ("80:20", (0.8, 0.2)),
        ([3, 1], (0.75, 0.25)),
    ],
)
def test_ratios(ratios: str | Sequence[float], shares: tuple[float, ...]) -> None:
    assert parse_ratios(ratios) == pytest.approx(shares, abs=1e-12)


@pytest.mark.parametrize(
    "ratios", ["", "8", "8:2:1:1", "8:0", "8:-2", "8:two", "8:nan", "8:inf", "8,2", [], [1], [1, None], "6::2"]
)
def test_wrong_ratios(ratios: str | Sequence[float]) -> None:
    with pytest.raises(ValueError, match="two or three positive numbers, such as 8:2 or 6:2:2; got"):
        parse_ratios(ratios)


@pytest.mark.parametrize(
    ("num_images", "ratios", "sizes"),
    [
        (10, "6:2:2", (6, 2, 2)),
        # 6.6, 2.2, 2.2: the one that is left goes to the largest remainder.
        (11, "6:2:2", (7, 2, 2)),
        # 7.8, 2.6, 2.6: two are left, and of the equal remainders the earlier is served.
        (13, "6:2:2", (8, 3, 2)),
        # 175.2, 58.4, 58.4
        (292, "6:2:2", (175, 59, 58)),
        (292, "8:2", (234, 58)),
        (100, "1:1:1", (34, 33, 33)),
    ],
)
def test_exact_sizes(num_images: int, ratios: str, sizes: tuple[int, ...]) -> None:
    assert exact_sizes(num_images, parse_ratios(ratios)) == sizes


@pytest.mark.parametrize(("num_images", "ratios"), [(0, "8:2"), (1, "8:2"), (3, "6:2:2"), (10, "98:2")])
def test_too_few_images(num_images: int, ratios: str) -> None:
    with pytest.raises(ValueError, match=f"{num_images} images cannot be divided into"):
        exact_sizes(num_images, parse_ratios(ratios))


def test_every_class_is_divided_exactly_where_that_is_possible() -> None:
    # Ten images of each of three classes, one box each.
    num_boxes = np.repeat(np.eye(3, dtype=np.int64), 10, axis=0)
    assignment = stratify(num_boxes, np.ones(30, np.int64), (18, 6, 6))
    for label in range(3):
        assert np.bincount(assignment[num_boxes[:, label] > 0]).tolist() == [6, 2, 2]


def test_a_rare_class_reaches_every_split() -> None:
    # Three of a hundred images have the rare class; a random split misses a split in most cases.
    num_boxes = np.ones((100, 2), np.int64)
    num_boxes[3:, 1] = 0
    assignment = stratify(num_boxes, np.ones(100, np.int64), (60, 20, 20))
    assert sorted(assignment[:3].tolist()) == [0, 1, 2]


def test_boxes_are_balanced_and_not_only_images() -> None:
    # Each class is in ten images, in one of them with 60 boxes; 138 boxes, of which train shall get half.
    generator = np.random.default_rng(0)
    num_boxes = generator.permuted(np.array([[60] * 4, *[[2] * 4] * 9, *[[0] * 4] * 10]), axis=0)
    assignment = stratify(num_boxes, np.ones(20, np.int64), (10, 10))
    in_train = num_boxes[assignment == 0]
    assert np.bincount(assignment).tolist() == [10, 10]
    assert ((in_train > 0).sum(0) >= 3).all()
    assert ((in_train > 0).sum(0) <= 7).all()


def test_groups_stay_together_and_sizes_are_exact() -> None:
    num_images = np.array([1] * 6 + [2, 2])
    num_boxes = num_images[:, None] * np.array([[3]])
    assignment = stratify(num_boxes, num_images, (6, 2, 2))
    assert np.bincount(assignment, weights=num_images).tolist() == [6, 2, 2]


def test_a_group_that_fits_nowhere_is_still_placed() -> None:
    assignment = stratify(np.array([[1], [1]]), np.array([5, 1]), (3, 3))
    assert sorted(assignment.tolist()) == [0, 1]


def test_images_without_objects_are_divided_too() -> None:
    assignment = stratify(np.zeros((10, 2), np.int64), np.ones(10, np.int64), (6, 2, 2))
    assert np.bincount(assignment).tolist() == [6, 2, 2]


def test_no_classes_at_all() -> None:
    assignment = stratify(np.zeros((4, 0), np.int64), np.ones(4, np.int64), (3, 1))
    assert np.bincount(assignment).tolist() == [3, 1]


def test_better_than_chance() -> None:
    generator = np.random.default_rng(5)
    num_boxes = generator.poisson(generator.uniform(0.02, 2, 20), (200, 20)).astype(np.int64)
    sizes, shares = (120, 40, 40), np.array([[0.6], [0.2], [0.2]])

    def largest_deviation(assignment: np.ndarray) -> float:
        counts = np.stack([num_boxes[assignment == split].sum(0) for split in range(3)])
        common = num_boxes.sum(0) >= 50
        return float(np.abs(counts / num_boxes.sum(0) - shares)[:, common].max())

    assignment = stratify(num_boxes, np.ones(200, np.int64), sizes)
    by_chance = [largest_deviation(generator.permutation(np.repeat([0, 1, 2], sizes))) for _ in range(50)]
    assert largest_deviation(assignment) < 0.025
    assert largest_deviation(assignment) < min(by_chance)
