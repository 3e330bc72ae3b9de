from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.drawing.boxes import draw_boxes, draw_mask, montage
from detseg.runtime.drawing.palette import color_of, palette_of
from detseg.runtime.media.images import read_image

NAMES = ["cat", "a class with a very long name"]


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def draw(image: np.ndarray, rows: list[tuple[float, ...]], **options: Any) -> np.ndarray:
    """Rows of left, top, right, bottom, label."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return draw_boxes(image, table[:, :4], table[:, 4].astype(np.int64), NAMES, **options)


def test_the_lines_lie_on_the_sides_and_the_inside_stays_free() -> None:
    drawn = draw(black(400, 400), [(100, 150, 300, 350, 0)], line_width=2)
    for y, x in [(150, 250), (350, 200), (250, 100), (250, 300)]:
        assert tuple(drawn[y, x]) == palette_of(NAMES)[0]
    assert not drawn[155:345, 105:295].any()
    assert not drawn[355:].any()


def test_the_given_image_is_left_alone() -> None:
    image = black(100, 100)
    assert draw(image, [(10, 40, 60, 80, 0)]).any()
    assert not image.any()


def test_the_better_box_lies_in_front() -> None:
    """Two boxes share their left side; whatever the order, the color there is that of the better one."""
    rows = [(100, 200, 250, 350, 0), (100, 200, 200, 300, 1)]
    for scores, front in [((0.9, 0.5), 0), ((0.5, 0.9), 1)]:
        drawn = draw(black(400, 400), rows, scores=np.array(scores, np.float32), line_width=2)
        assert tuple(drawn[280, 100]) == palette_of(NAMES)[front]


def tag_area(drawn: np.ndarray, label: int) -> np.ndarray:
    """Rows and columns of the tag's ground, which is the class color at 85 % over black."""
    ground = np.round(np.array(palette_of(NAMES)[label]) * 0.85).astype(np.uint8)
    return np.argwhere((drawn == ground).all(axis=2))


@pytest.mark.parametrize(
    "box",
    [
        (50, 100, 150, 180),
        (0, 0, 60, 50),
        (180, 0, 200, 20),
        (190, 190, 200, 200),
        (0, 0, 200, 200),
        (-50, -50, 500, 500),
    ],
)
def test_tags_stay_inside_the_image(box: tuple[float, ...]) -> None:
    area = tag_area(draw(black(200, 200), [(*box, 0)]), 0)
    # the whole tag: "cat" is written on a ground of at least 10 x 15 pixels
    height, width = area.max(axis=0) - area.min(axis=0)
    assert height >= 10
    assert width >= 15


def test_tags_do_not_cover_each_other() -> None:
    """Two equal boxes: above is taken by the first tag, the second goes elsewhere, and both are whole."""
    one = tag_area(draw(black(300, 300), [(50, 100, 200, 200, 0)], line_width=2), 0)
    both = draw(black(300, 300), [(50, 100, 200, 200, 0)] * 2, line_width=2)
    assert len(tag_area(both, 0)) == 2 * len(one)


def test_where_there_is_no_room_the_tags_of_the_best_remain() -> None:
    crowd = [(100.0, 100.0, 104.0, 104.0, 0)] * 50
    few = len(tag_area(draw(black(300, 300), crowd, line_width=2), 0))
    one = len(tag_area(draw(black(300, 300), crowd[:1], line_width=2), 0))
    assert one < few < 9 * one


def test_a_tag_wider_than_the_image_is_cut() -> None:
    assert draw(black(40, 60), [(5, 5, 50, 30, 1)], scores=np.array([0.5], np.float32)).shape == (40, 60, 3)


def test_nothing_to_draw() -> None:
    assert not draw(black(40, 60), []).any()


def test_lines_grow_with_the_image() -> None:
    def thickness(size: int) -> int:
        drawn = draw(black(size, size), [(size / 4, size / 2, size * 3 / 4, size * 3 / 4, 0)])
        return int((drawn[size * 3 // 4 - 20 :, size // 2] == palette_of(NAMES)[0]).all(axis=1).sum())

    assert 1 <= thickness(200) < thickness(1000) < thickness(4000) < 30


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0], None, "1 boxes, 2 labels"),
        ([0], [0.1, 0.2], "2 scores"),
        ([2], None, "labels from 2 to 2, but there are 2 class names"),
        ([-1], None, "labels from -1"),
    ],
)
def test_what_does_not_fit_is_refused(labels: list[int], scores: list[float] | None, message: str) -> None:
    values = None if scores is None else np.array(scores, np.float32)
    with pytest.raises(ValueError, match=message):
        draw_boxes(black(9, 9), np.zeros((1, 4), np.float32), np.array(labels), NAMES, values)


def test_neighboring_classes_differ_in_color() -> None:
    colors = np.array([palette_of(NAMES)[label] for label in range(20)], np.int64)
    distances = np.abs(colors[:, None] - colors).sum(axis=2)[~np.eye(20, dtype=bool)]
    assert distances.min() > 60


def test_many_classes_have_colors_of_their_own() -> None:
    colors = [color_of(label) for label in range(256)]
    assert len(set(colors)) == 256
    lab = cv2.cvtColor(np.array([colors], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)
    # A difference of about 2 can just be seen; these are for 80 classes (COCO) and for all.
    assert distances[:80, :80][~np.eye(80, dtype=bool)].min() > 17
    assert distances[~np.eye(256, dtype=bool)].min() > 10
    assert [color_of(256), color_of(300)] == [colors[0], colors[44]]


def test_a_mask_tints_its_classes_and_spares_the_ignored() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    drawn = draw_mask(image, np.array([[0, 1], [255, 0]], np.uint8), opacity=0.5)
    expected = [np.round(50 + np.array(palette_of(NAMES)[label]) / 2) for label in (0, 1)]
    np.testing.assert_allclose(drawn[0], expected, atol=1)
    assert drawn[1, 0].tolist() == [100, 100, 100]
    with pytest.raises(ValueError, match="one size"):
        draw_mask(image, np.zeros((3, 2), np.uint8))


def test_a_montage_holds_every_image_centered_in_its_cell() -> None:
    images = [np.full(size, value, np.uint8) for size, value in [((4, 6, 3), 1), ((2, 2, 3), 2), ((4, 4, 3), 3)]]
    sheet = montage(images, columns=2, pad=1, background=0)
    expected = np.zeros((1 + 2 * 5, 1 + 2 * 7), np.uint8)
    expected[1:5, 1:7] = 1
    expected[2:4, 10:12] = 2
    expected[6:10, 2:6] = 3
    assert np.array_equal(sheet[..., 0], expected)
    assert montage(images[:1], columns=5, pad=0).shape == (4, 6, 3)
    with pytest.raises(ValueError, match="0 images"):
        montage([], columns=2)


def test_a_real_image(detseg_data: Path) -> None:
    image = read_image(detseg_data / "bccd" / "JPEGImages" / "BloodImage_00000.jpg")
    drawn = draw(image, [(100, 100, 300, 300, 0)], scores=np.array([0.87], np.float32))
    changed = (drawn != image).any(axis=2).mean()
    assert 0 < changed < 0.03


def test_what_is_not_followed_has_a_tag_without_a_number() -> None:
    image, box = black(100, 200), np.array([[20, 30, 150, 80]], np.float32)
    plain = draw_boxes(image, box, np.zeros(1, np.int64), ["beast"])
    assert np.array_equal(draw_boxes(image, box, np.zeros(1, np.int64), ["beast"], track_ids=np.array([0])), plain)
    assert not np.array_equal(draw_boxes(image, box, np.zeros(1, np.int64), ["beast"], track_ids=np.array([3])), plain)
