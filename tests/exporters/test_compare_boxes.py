from __future__ import annotations

import numpy as np
import pytest

from detseg.exporters.compare_boxes import BoxComparison
from detseg.structures import Detections


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of left, top, right, bottom, score and class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


CAR = (10, 10, 30, 20, 0.9, 0)
DOG = (50, 50, 70, 80, 0.6, 1)

CASES = [
    # expected, found, box difference, score difference, share matched, words in the problems
    ([CAR, DOG], [CAR, DOG], 0, 0, 1, []),
    ([CAR, DOG], [DOG, CAR], 0, 0, 1, []),
    ([], [], 0, 0, 1, []),
    ([CAR], [(10, 10, 30.005, 20, 0.9, 0)], 0.005, 0, 1, []),
    ([CAR], [(10, 10, 30, 20.5, 0.9, 0)], 0.5, 0, 1, ["a box differs by 0.5 px"]),
    ([CAR], [(10, 10, 30, 20, 0.91, 0)], 0, 0.01, 1, ["a score differs by 0.01"]),
    # The same place, another class: both are alone.
    ([CAR], [(10, 10, 30, 20, 0.9, 1)], 0, 0, 0, ["2 boxes have no match; 0.00 %"]),
    ([CAR, DOG], [CAR], 0, 0, 0.5, ["1 boxes have no match; 50.00 %"]),
    ([CAR], [CAR, CAR], 0, 0, 0.5, ["1 boxes have no match"]),
    ([CAR, CAR], [CAR], 0, 0, 0.5, ["1 boxes have no match"]),
    # Below the confidence of 0.25, or so near that the other side may have left it out.
    ([CAR, (50, 50, 70, 80, 0.2, 1)], [CAR], 0, 0, 1, []),
    ([CAR, (50, 50, 70, 80, 0.25005, 1)], [CAR], 0, 0, 1, []),
    ([CAR, (50, 50, 70, 80, 0.2502, 1)], [CAR], 0, 0, 0.5, ["1 boxes"]),
    # A box without area is found again.
    ([(5, 5, 5, 9, 0.5, 0)], [(5, 5, 5, 9, 0.5, 0)], 0, 0, 1, []),
]


@pytest.mark.parametrize(("expected", "found", "box", "score", "matched", "problems"), CASES)
def test_differences(
    expected: list[tuple[float, ...]],
    found: list[tuple[float, ...]],
    box: float,
    score: float,
    matched: float,
    problems: list[str],
) -> None:
    comparison = BoxComparison(confidence=0.25, max_detections=300)
    comparison.add(boxes(*expected), boxes(*found))  # type: ignore[arg-type]
    report = comparison.report()
    assert report["largest_box_difference_px"] == pytest.approx(box, abs=1e-5)
    assert report["largest_score_difference"] == pytest.approx(score, abs=1e-6)
    assert report["matched"] == matched
    told = comparison.problems()
    assert len(told) == len(problems)
    assert all(words in text for words, text in zip(problems, told, strict=True))


def test_the_best_overlap_is_taken_and_only_once() -> None:
    """Two boxes of one class side by side: each finds its own, although they overlap each other as well."""
    left, right = (0, 0, 20, 10, 0.9, 0), (4, 0, 24, 10, 0.8, 0)
    comparison = BoxComparison(0.25, 300)
    comparison.add(boxes(left, right), boxes((4, 0, 24, 10, 0.85, 0), (0, 0, 20, 10, 0.8, 0)))
    report = comparison.report()
    assert report["largest_box_difference_px"] == 0
    assert report["largest_score_difference"] == pytest.approx(0.1)


def test_where_the_list_is_full_its_lowest_score_is_the_limit() -> None:
    other = (80, 80, 90, 90, 0.60005, 2)
    comparison = BoxComparison(0.25, max_detections=2)
    comparison.add(boxes(CAR, other), boxes(CAR, DOG))
    assert comparison.problems() == []
    comparison = BoxComparison(0.25, max_detections=3)
    comparison.add(boxes(CAR, other), boxes(CAR, DOG))
    assert len(comparison.problems()) == 1


def test_images_add_up() -> None:
    comparison = BoxComparison(0.25, 300)
    comparison.add(boxes(CAR), boxes(CAR))
    comparison.add(boxes(CAR, DOG), boxes(CAR))
    comparison.add(boxes(), boxes())
    assert comparison.report()["images"] == 3
    assert comparison.report()["boxes"] == 3
    assert comparison.report()["matched"] == pytest.approx(2 / 3)
