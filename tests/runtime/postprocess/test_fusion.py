from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.postprocess.fusion import fuse_views, majority

SETTINGS: dict[str, Any] = {"confidence": 0.0, "max_detections": 300}


def fused(views: list[list[tuple[float, ...]]], **settings: Any) -> list[tuple[Any, ...]]:
    rows = np.array([row for one in views for row in one], np.float32).reshape(-1, 6)
    counts = [len(one) for one in views]
    found = fuse_views(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), counts, **{**SETTINGS, **settings})
    return [(*np.round(one.box_xyxy, 3).tolist(), round(one.score, 4), one.label) for one in found]


def test_boxes_are_means_weighted_by_scores() -> None:
    """By hand: (0.75 * 0 + 0.25 * 4) / 1 = 1 for the left side; the score is (0.75 + 0.25) / 2."""
    views = [[(0, 0, 40, 20, 0.75, 0)], [(4, 0, 40, 20, 0.25, 0)]]
    assert fused(views) == [(1, 0, 40, 20, 0.5, 0)]


def test_what_fewer_views_see_is_less_sure() -> None:
    """The mean of T scores times T / N: 0.6 * 1 / 3 and (0.6 + 0.3) / 2 * 2 / 3."""
    box = (0, 0, 10, 10)
    assert fused([[(*box, 0.6, 0)], [], []]) == [(*box, 0.2, 0)]
    assert fused([[(*box, 0.6, 0)], [(*box, 0.3, 0)], []]) == [(*box, 0.3, 0)]


def test_boxes_join_the_fused_box_and_not_one_another() -> None:
    """The third overlaps the best one by less than the limit, but the fused one by more: IoU 12/20 with sides 0 to 16
    and 4 to 20, 13/19 with 1 to 17."""
    best, second, third = (0, 0, 16, 10, 0.5, 0), (2, 0, 18, 10, 0.5, 0), (4, 0, 20, 10, 0.1, 0)
    assert len(fused([[best], [second], [third]], iou=0.62)) == 1
    assert len(fused([[best], [third]], iou=0.62)) == 2


def test_two_boxes_of_one_view_stay_two() -> None:
    one, other = (0, 0, 20, 10, 0.8, 0), (3, 0, 23, 10, 0.6, 0)
    assert [box[4] for box in fused([[one, other], [one, other]])] == [0.8, 0.6]


def test_classes_are_apart_unless_any_class_is_one_object() -> None:
    views = [[(0, 0, 20, 10, 0.8, 0)], [(0, 0, 20, 10, 0.6, 1)]]
    assert [box[5] for box in fused(views)] == [0, 1]
    assert fused(views, class_agnostic=True) == [(0, 0, 20, 10, 0.7, 0)]


def test_what_is_not_sure_enough_or_too_many_is_left_out() -> None:
    views = [[(30 * number, 0, 30 * number + 20, 10, 0.2 * (1 + number), 0) for number in range(4)], []]
    assert [box[4] for box in fused(views)] == [0.4, 0.3, 0.2, 0.1]
    assert [box[4] for box in fused(views, confidence=0.15)] == [0.4, 0.3, 0.2]
    assert [box[4] for box in fused(views, max_detections=1)] == [0.4]


def test_scores_of_zero_are_no_trouble() -> None:
    assert fused([[(0, 0, 4, 4, 0.0, 0)], [(0, 0, 4, 4, 0.0, 0)]], confidence=-1.0) == [(0, 0, 4, 4, 0, 0)]
    assert fused([[], []]) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_majority_of_masks_is_that_of_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = random.random((5, 11, 7)) > 0.4
    weights = random.random(5).astype(np.float32)
    expected = np.tensordot(weights.astype(np.float64), masks, 1) > weights.sum(dtype=np.float64) / 2
    found = majority([RunLengths.from_mask(mask) for mask in masks], weights)
    np.testing.assert_array_equal(found.to_mask(), expected)


def test_a_single_mask_and_equal_votes() -> None:
    one, other = (RunLengths.from_mask(np.array([[True, row], [False, False]])) for row in (True, False))
    assert majority([one], np.ones(1, np.float32)) is one
    # half of the votes is no majority
    assert majority([one, other], np.ones(2, np.float32)) == other
