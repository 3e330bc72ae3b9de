from __future__ import annotations

import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.runtime.drawing.errors import Mark, MarkedBox, draw_marked_boxes

GREEN, RED = Mark("right", (0, 255, 0)), Mark("misses", (255, 0, 0))
# As large as is shown without enlarging.
IMAGE = np.full((900, 1280, 3), 100, np.uint8)
COUNTS = [(GREEN, 3), (RED, 12)]


def is_color(image: ByteArray, mark: Mark) -> np.ndarray:
    return np.asarray((image == np.array(mark.color)).all(axis=2))


def test_boxes_lie_where_they_should_over_a_legend() -> None:
    untouched = IMAGE.copy()
    drawn = draw_marked_boxes(IMAGE, [MarkedBox((200, 300, 500, 600), GREEN)], COUNTS)
    assert np.array_equal(IMAGE, untouched)
    assert drawn.shape[0] > 900
    assert drawn.shape[1:] == (1280, 3)
    rows, columns = np.nonzero(is_color(drawn[:900], GREEN))
    assert (rows.min(), rows.max()) == pytest.approx((300, 600), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((200, 500), abs=2)
    # The inside is clear.
    assert (drawn[310:590, 210:490] == 100).all()
    assert is_color(drawn[900:], GREEN).any()
    assert is_color(drawn[900:], RED).any(), "the legend names kinds that this image does not show"


def test_objects_are_dashed() -> None:
    solid = draw_marked_boxes(IMAGE, [MarkedBox((200, 300, 500, 600), RED)], COUNTS)[:900]
    dashed = draw_marked_boxes(IMAGE, [MarkedBox((200, 300, 500, 600), RED, dashed=True)], COUNTS)[:900]
    # Half of the line is left out, on all four sides.
    assert 0.3 < is_color(dashed, RED).sum() / is_color(solid, RED).sum() < 0.8
    for side in (np.s_[298:303, 205:495], np.s_[598:603, 205:495], np.s_[305:595, 198:203], np.s_[305:595, 498:503]):
        assert is_color(dashed[side], RED).any()
        along = is_color(dashed[side], RED).any(axis=0 if dashed[side].shape[0] == 5 else 1)
        assert not along.all()


def test_the_first_box_is_in_front_and_tagged_ones_are_bold() -> None:
    first, second = MarkedBox((200, 300, 500, 600), GREEN, "a 0.90"), MarkedBox((200, 300, 500, 600), RED)
    drawn = draw_marked_boxes(IMAGE, [first, second], COUNTS)[:900]
    assert is_color(drawn, GREEN)[450].any()
    assert not is_color(drawn, RED)[450].any()
    bold = draw_marked_boxes(IMAGE, [first], COUNTS)[:900]
    thin = draw_marked_boxes(IMAGE, [MarkedBox(first.xyxy, GREEN)], COUNTS)[:900]
    assert is_color(bold, GREEN)[450].sum() > is_color(thin, GREEN)[450].sum() > 0
    # Above the box stands a tag, but not above the one without a text.
    assert (bold[270:295, 200:240] != 100).any()
    assert (thin[270:295, 200:240] == 100).all()


def test_small_images_are_enlarged_with_their_boxes() -> None:
    drawn = draw_marked_boxes(IMAGE[:90, :128], [MarkedBox((20, 30, 50, 60), GREEN)], COUNTS)
    assert drawn.shape[1] == 1280
    rows, columns = np.nonzero(is_color(drawn[:900], GREEN))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((300, 600, 200, 500), abs=2)


def test_no_boxes() -> None:
    drawn = draw_marked_boxes(IMAGE, [], [(GREEN, 0)])
    assert np.array_equal(drawn[:900], IMAGE)
