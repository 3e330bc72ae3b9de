from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.runtime.drawing.labels import classes_in, draw_labels
from detseg.runtime.drawing.palette import palette_of
from detseg.structures import IGNORE_INDEX

NAMES = ("sky", "road", "car")
IMAGE = np.full((60, 80, 3), 100, np.uint8)


def halves() -> np.ndarray[Any, np.dtype[np.uint8]]:
    labels = np.zeros((60, 80), np.uint8)
    labels[30:] = 2
    labels[:, 70:] = IGNORE_INDEX
    return labels


def test_regions_are_tinted_borders_full_and_ignored_clear() -> None:
    image = IMAGE.copy()
    drawn = draw_labels(image, halves(), NAMES, opacity=0.25, names=False)
    assert (image == 100).all()
    for row, label in ((10, 0), (50, 2)):
        expected = [round(0.75 * 100 + 0.25 * channel) for channel in palette_of(NAMES)[label]]
        assert np.abs(drawn[row, 40].astype(int) - expected).max() <= 1
        assert (drawn[row, 69] == palette_of(NAMES)[label]).all(), "the border to ignored"
    assert (drawn[29, :70] == palette_of(NAMES)[0]).all(), "the last row of the upper region"
    assert (drawn[30, 5] != palette_of(NAMES)[2]).any()
    assert (drawn[:, 70:] == 100).all()


@pytest.mark.parametrize(("opacity", "row", "expected"), [(0.0, 10, (100, 100, 100)), (1.0, 10, palette_of(NAMES)[0])])
def test_opacity(opacity: float, row: int, expected: tuple[int, int, int]) -> None:
    assert tuple(draw_labels(IMAGE, halves(), NAMES, opacity, names=False)[row, 40].tolist()) == expected


def test_every_region_with_room_is_named_once_inside_of_itself() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[100:] = 1
    labels[:, 250:] = 2
    labels[0, 0] = 3
    image = np.full((200, 300, 3), 100, np.uint8)
    names = ("sky", "road", "car", "speck")
    changed = (draw_labels(image, labels, names) != draw_labels(image, labels, names, names=False)).any(axis=2)
    assert changed.any()
    for label, (top, bottom) in {0: (0, 100), 1: (100, 200)}.items():
        rows, columns = np.nonzero(changed & (labels == label))
        assert top + 20 < rows.min() <= rows.max() < bottom - 20, "in the middle of the region"
        assert 20 < columns.min() <= columns.max() < 230
    # Nothing but the three plates: the speck has no room.
    assert changed.mean() < 0.08
    one_class = np.zeros((200, 300), np.uint8)
    assert (draw_labels(image, one_class, names) != draw_labels(image, one_class, names, names=False)).any()


def test_names_that_do_not_fit_are_left_out() -> None:
    thin = np.zeros((4, 300), np.uint8)
    image = np.full((4, 300, 3), 100, np.uint8)
    assert np.array_equal(draw_labels(image, thin, NAMES), draw_labels(image, thin, NAMES, names=False))


def test_classes_of_several_masks() -> None:
    assert classes_in(np.array([[3, IGNORE_INDEX]], np.uint8), np.array([[0], [3]], np.uint8)) == [0, 3]
    assert classes_in(np.full((2, 2), IGNORE_INDEX, np.uint8)) == []


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (np.zeros((60, 79), np.uint8), {}, r"one size, got \(60, 79\) and \(60, 80\)"),
        (np.full((60, 80), 3, np.uint8), {}, "label 3 in the mask, but there are 3 class names"),
        (np.zeros((60, 80), np.uint8), {"opacity": 1.5}, "opacity must be from 0 to 1, got 1.5"),
    ],
)
def test_impossible_requests(labels: Any, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_labels(IMAGE, labels, NAMES, **settings)
