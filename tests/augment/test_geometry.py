from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from detseg.augment.geometry import (
    BoxFilter,
    RandomView,
    paste,
    project,
    quarter_turns,
    scaling,
    transform_boxes,
    translation,
)

ROOT_2 = math.sqrt(2)
TURN_45 = np.array([[ROOT_2 / 2, -ROOT_2 / 2, 0], [ROOT_2 / 2, ROOT_2 / 2, 0], [0, 0, 1]])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("matrix", "box", "expected"),
    [
        (translation(3, -2), (1, 5, 4, 9), (4, 3, 7, 7)),
        (scaling(2, 0.5), (1, 4, 3, 8), (2, 2, 6, 4)),
        (translation(10, 0) @ scaling(-1, 1), (1, 5, 4, 9), (6, 5, 9, 9)),
        (quarter_turns(1, height=20, width=10), (1, 5, 4, 9), (5, 6, 9, 9)),
        (quarter_turns(2, height=20, width=10), (1, 5, 4, 9), (6, 11, 9, 15)),
        (quarter_turns(3, height=20, width=10), (1, 5, 4, 9), (11, 1, 15, 4)),
        (TURN_45, (-1, -1, 1, 1), (-ROOT_2, -ROOT_2, ROOT_2, ROOT_2)),
        (np.array([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 1]]), (0, 0, 10, 10), (0, 0, 5, 10)),
    ],
)
def test_transform_boxes_encloses_the_mapped_corners(
    matrix: np.ndarray, box: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    np.testing.assert_allclose(transform_boxes(np.array([box], np.float32), matrix), [expected], atol=1e-12)


def test_transform_boxes_takes_no_boxes() -> None:
    assert transform_boxes(np.zeros((0, 4), np.float32), TURN_45).shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "clipped", "keep"),
    [
        ((10, 10, 30, 20), (10, 10, 30, 20), True),
        ((-10, 10, 30, 20), (0, 10, 30, 20), True),
        ((-90, 10, 10, 20), (0, 10, 10, 20), True),  # a tenth is left, exactly the limit
        ((-91, 10, 10, 20), (0, 10, 10, 20), False),
        ((120, 10, 130, 20), (100, 10, 100, 20), False),
        ((10, 10, 12, 20), (10, 10, 12, 20), True),
        ((10, 10, 11.9, 20), (10, 10, 11.9, 20), False),
        ((10, 10, 90, 12), (10, 10, 90, 12), True),  # 40:1, exactly the limit
        ((10, 10, 91, 12), (10, 10, 91, 12), False),
        ((10, 10, 10, 10), (10, 10, 10, 10), False),
    ],
)
def test_boxes_are_clipped_and_dropped_by_three_rules(
    box: tuple[float, ...], clipped: tuple[float, ...], keep: bool
) -> None:
    rules = BoxFilter(min_area_ratio=0.1, min_box_side=2, max_box_aspect=40)
    boxes, kept = rules.clip(np.array([box], np.float64), (50, 100))
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [clipped], rtol=1e-6)
    assert kept.tolist() == [keep]


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact(turns: int, interpolate: bool, channels: tuple[int, ...]) -> None:
    image = noise(6, 9, *channels)
    expected = np.rot90(image, turns)
    target = np.zeros_like(expected)
    paste(target, image, quarter_turns(turns, 6, 9), interpolate)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("interpolate", [True, False])
def test_a_mirrored_and_moved_image_is_exact_and_leaves_the_rest_alone(interpolate: bool) -> None:
    image = noise(6, 9, 3)
    target = np.full((10, 12, 3), 7, np.uint8)
    paste(target, image, translation(12, 1) @ scaling(-1, 1), interpolate)
    expected = np.full((10, 12, 3), 7, np.uint8)
    expected[1:7, 3:12] = image[:, ::-1]
    np.testing.assert_array_equal(target, expected)


def test_a_pixel_belongs_to_the_image_that_covers_its_center() -> None:
    target = np.zeros((1, 8), np.uint8)
    paste(target, np.full((1, 3), 9, np.uint8), translation(2.4, 0), interpolate=True)
    assert target.tolist() == [[0, 0, 9, 9, 9, 0, 0, 0]]
    target[:] = 0
    paste(target, np.full((1, 3), 9, np.uint8), translation(2.6, 0), interpolate=True)
    assert target.tolist() == [[0, 0, 0, 9, 9, 9, 0, 0]]


@pytest.mark.parametrize("offset", [(50, 0), (-50, 0), (0, 50), (0, -50)])
def test_an_image_outside_leaves_no_trace(offset: tuple[int, int]) -> None:
    target = np.zeros((20, 20, 3), np.uint8)
    paste(target, noise(10, 10, 3), translation(*offset) @ TURN_45)
    assert not target.any()


def test_halving_averages_blocks_also_at_an_odd_border() -> None:
    image = noise(9, 12, 3)
    target = np.zeros((4, 6, 3), np.uint8)
    paste(target, image, scaling(0.5, 0.5))
    blocks = image[:8].reshape(4, 2, 6, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(target - blocks).max() <= 1


@pytest.mark.parametrize("shrink", [2.2, 3.0, 3.7, 5.3])
@pytest.mark.parametrize("turn", [np.eye(3), TURN_45], ids=["straight", "turned"])
def test_shrinking_does_not_alias(shrink: float, turn: np.ndarray) -> None:
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    target = np.full((40, 40, 3), 127, np.uint8)
    paste(target, stripes, translation(20, 20) @ scaling(1 / shrink, 1 / shrink) @ turn @ translation(-120, -120))
    # Plain bilinear sampling gives stripes of full contrast here, a standard deviation over 60.
    assert target[5:35, 5:35].std() < 40
    assert abs(float(target[5:35, 5:35].mean()) - 127.5) < 6


@pytest.mark.parametrize(
    "matrix",
    [
        translation(-30, -20) @ scaling(0.31, 0.31),
        translation(10, 5) @ scaling(0.45, 0.45) @ TURN_45,
        np.array([[0.4, 0.1, 3], [0.05, 0.5, -4], [4e-4, 2e-4, 1]]),
    ],
    ids=["straight", "turned", "perspective"],
)
def test_shrinking_moves_nothing(matrix: np.ndarray) -> None:
    """A smooth image has the value at each target pixel that the exact inverse map finds in the source."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(160))
    image = np.stack([columns, rows, (columns + rows) / 2], axis=2).astype(np.uint8)
    target = np.zeros((60, 70, 3), np.uint8)
    paste(target, image, matrix)
    target_columns, target_rows = np.meshgrid(np.arange(70) + 0.5, np.arange(60) + 0.5)
    source = project(np.stack([target_columns, target_rows], axis=2), np.linalg.inv(matrix)) - 0.5
    inside = ((source > 2) & (source < (197, 157))).all(axis=2)
    assert inside.sum() > 100
    assert np.abs(target[inside][:, :2] - source[inside]).max() < 1.3


@pytest.mark.parametrize(
    ("settings", "point", "expected"),
    [
        ({}, (3, -2), (53, 28)),
        ({"flip_horizontal": 1.0}, (3, -2), (47, 28)),
        ({"flip_vertical": 1.0}, (3, -2), (53, 32)),
        ({"scale": (2.0, 2.0)}, (3, -2), (56, 26)),
    ],
)
def test_views_without_a_choice(settings: dict[str, Any], point: tuple[int, int], expected: tuple[int, int]) -> None:
    view = RandomView(**settings).matrix((60, 100), np.random.default_rng(0))
    np.testing.assert_allclose(project(np.array([point]), view), [expected], atol=1e-12)


def test_random_views_stay_within_their_limits() -> None:
    view = RandomView(degrees=20, translate=0.1, scale=(0.5, 1.5), flip_horizontal=0.5)
    rng = np.random.default_rng(0)
    matrices = np.array([view.matrix((60, 100), rng) for _ in range(500)])
    middles = matrices[:, :2, 2] - (50, 30)
    zooms = np.sqrt(np.abs(np.linalg.det(matrices[:, :2, :2])))
    turns = np.degrees(np.arctan2(matrices[:, 1, 0], np.abs(matrices[:, 0, 0])))
    for values, limit in ((middles[:, 0], 10), (middles[:, 1], 6), (turns, 20), (zooms - 1, 0.5)):
        assert 0.9 * limit < np.abs(values).max() <= limit + 1e-9
    mirrored = np.mean(np.linalg.det(matrices[:, :2, :2]) < 0)
    assert 0.4 < mirrored < 0.6


def test_perspective_changes_the_scale_at_the_border_by_the_given_share() -> None:
    view = RandomView(perspective=0.1)
    rng = np.random.default_rng(0)
    weights = [view.matrix((60, 100), rng)[2] @ (50, 0, 1) for _ in range(500)]
    assert 0.09 < max(abs(weight - 1) for weight in weights) <= 0.1


@pytest.mark.parametrize("tilt", [0.0, 0.1])
@pytest.mark.parametrize("turn", [0.0, 0.3])
@pytest.mark.parametrize("scale", [0.83, 0.3])
def test_four_channels_are_drawn_as_three_and_as_each_alone(scale: float, turn: float, tilt: float) -> None:
    source = noise(60, 80, 3)
    matrix = translation(7.3, -4.6) @ scaling(scale, 1.21)
    matrix[0, 1], matrix[2, 0] = turn, tilt / 80
    three, four = np.full((70, 90, 3), 114, np.uint8), np.full((70, 90, 4), 114, np.uint8)
    paste(three, source, matrix)
    paste(four, source, matrix)
    assert (three != 114).any()
    np.testing.assert_array_equal(four[..., :3], three)
    for channel in range(3):
        alone = np.full((70, 90), 114, np.uint8)
        paste(alone, np.ascontiguousarray(source[..., channel]), matrix)
        np.testing.assert_array_equal(three[..., channel], alone)


@pytest.mark.parametrize("degrees", [0, 20])
def test_what_is_seen_of_a_part_is_what_is_seen_of_all(degrees: float) -> None:
    """A view of a corner takes only a part of the source."""
    source, matrix = noise(200, 300, 3), translation(-150.4, -90.7) @ scaling(0.8, 1.3)
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 9], [np.sin(angle), np.cos(angle), 3], [0, 0, 1]]) @ matrix
    large, small = np.zeros((200, 300, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    paste(large, source, matrix)
    paste(small, source, matrix)
    assert small.any()
    # OpenCV places pixels to a thirty-second, and rounds from another origin.
    assert np.abs(small.astype(int) - large[:20, :30]).max() <= 255 / 32 + 1
