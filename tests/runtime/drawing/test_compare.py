from __future__ import annotations

import numpy as np
import pytest

from detseg.runtime.drawing.boxes import draw_boxes
from detseg.runtime.drawing.compare import compare_boxes, compare_labels
from detseg.runtime.drawing.labels import draw_labels
from detseg.runtime.drawing.palette import palette_of
from detseg.runtime.kinds import load_kind
from detseg.structures import IGNORE_INDEX, Detections, GroundTruth, LabelMap

NAMES = ("sky", "road", "car")
IMAGE = np.full((60, 80, 3), 100, np.uint8)
RED, GRAY = (235, 30, 45), (120, 120, 120)


def detections(*scores: float) -> Detections:
    count = len(scores)
    boxes = np.tile(np.array([[10, 20, 50, 50]], np.float32), (count, 1))
    return Detections(boxes, np.array(scores, np.float32), np.zeros(count, np.int64))


def test_each_kind_of_result_is_drawn_its_own_way() -> None:
    found = detections(0.9)
    boxes = draw_boxes(IMAGE, found.boxes_xyxy, found.labels, NAMES, found.scores)
    assert np.array_equal(load_kind("boxes").draw(IMAGE, found, NAMES), boxes)
    labels = np.ones((60, 80), np.uint8)
    assert np.array_equal(load_kind("masks").draw(IMAGE, LabelMap(labels), NAMES), draw_labels(IMAGE, labels, NAMES))


def cell_height(sheet: np.ndarray) -> int:
    """An image of 60 rows and its caption: white rows follow."""
    return next(height for height in range(60, 100) if (sheet[6 + height : 12 + height] == 255).all())


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    """The four images of a comparison of 60x80 pixels: they stand at the ends of their cells, under captions."""
    columns = (6, 6 + 80 + 6)
    cell = cell_height(sheet)
    tops = (6 + cell - 60, 6 + cell + 6 + cell - 60)
    return [sheet[top : top + 60, left : left + 80] for top in tops for left in columns]


def test_comparison_of_masks() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[30:] = 1
    truth[:, 60:] = IGNORE_INDEX
    labels = np.zeros((60, 80), np.uint8)
    labels[40:] = 1
    sheet = compare_labels(IMAGE, truth, labels, NAMES)
    image, drawn_truth, drawn_labels, errors = panels(sheet)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(drawn_truth, draw_labels(IMAGE, truth, NAMES, names=False))
    assert np.array_equal(drawn_labels, draw_labels(IMAGE, labels, NAMES, names=False))
    assert (errors[30:40, :60] == RED).all()
    assert (errors[:, 60:] == GRAY).all()
    assert (errors[:30, :60] == 50).all()
    assert (errors[40:, :60] == 50).all()
    # The legend names the classes that occur, and no others.
    legend = sheet[-24:].reshape(-1, 3)
    occurs = [bool((legend == palette_of(NAMES)[label]).all(axis=1).any()) for label in range(3)]
    assert occurs == [True, True, False]


def last_caption(sheet: np.ndarray, width: int) -> np.ndarray:
    """The strip above the map of errors, in a comparison of ``60 x width`` pixels."""
    cell, left = cell_height(sheet), 6 + width + 6
    return sheet[6 + cell + 6 :][: cell - 60, left : left + width]


def test_the_caption_says_how_much_of_the_judged_is_wrong() -> None:
    truth = np.zeros((60, 80), np.uint8)
    partly_ignored = truth.copy()
    partly_ignored[20:] = IGNORE_INDEX
    all_wrong = np.ones_like(truth)
    captions = {
        name: last_caption(compare_labels(IMAGE, mask, labels, NAMES), 80)
        for name, mask, labels in [
            ("right", truth, truth),
            ("wrong", truth, all_wrong),
            ("right where judged", partly_ignored, truth),
            ("wrong where judged", partly_ignored, all_wrong),
        ]
    }
    assert (captions["right"] != captions["wrong"]).any()
    assert np.array_equal(captions["right"], captions["right where judged"])
    assert np.array_equal(captions["wrong"], captions["wrong where judged"])


@pytest.mark.parametrize(
    ("truth_size", "size"), [((60, 79), (60, 80)), ((60, 80), (59, 80)), ((1, 80), (60, 80)), ((60, 79), (60, 79))]
)
def test_masks_of_another_size_are_refused(truth_size: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"labels and image must have one size, got .* and \(60, 80\)"):
        compare_labels(IMAGE, np.zeros(truth_size, np.uint8), np.zeros(size, np.uint8), NAMES)


def test_captions_are_whole_on_narrow_images() -> None:
    """The last letter ends before the image does, so no ink reaches the last column, whatever the width."""
    for width in range(30, 81):
        mask = np.zeros((60, width), np.uint8)
        caption = last_caption(compare_labels(IMAGE[:, :width], mask, np.ones_like(mask), NAMES), width)
        assert (caption < 200).any()
        assert (caption[:, -1] == 255).all()


def test_masks_without_any_truth_can_be_shown() -> None:
    ignored = np.full((60, 80), IGNORE_INDEX, np.uint8)
    *_, errors = panels(compare_labels(IMAGE, ignored, np.zeros_like(ignored), NAMES))
    assert (errors == GRAY).all()


def test_comparison_of_boxes_leaves_weak_ones_out() -> None:
    truth = GroundTruth(
        image_id=1,
        height=60,
        width=80,
        boxes_xywh=np.array([[5, 25, 30, 30], [40, 10, 20, 20]], np.float64),
        labels=np.array([1, 2]),
        crowd=np.array([False, True]),
        areas=np.array([900.0, 400.0]),
    )
    sheets = [compare_boxes(IMAGE, truth, detections(*scores), NAMES) for scores in ((0.9,), (0.9, 0.2), (0.2,))]
    assert np.array_equal(sheets[0], sheets[1])
    assert (sheets[0] != sheets[2]).any()
    left, right = (sheets[0][-66:-6, start : start + 80] for start in (6, 92))
    names = [*NAMES, *(f"{name} (crowd)" for name in NAMES)]
    boxes = np.array([[5, 25, 35, 55], [40, 10, 60, 30]], np.float32)
    palette = palette_of(NAMES)
    assert np.array_equal(left, draw_boxes(IMAGE, boxes, np.array([1, 5]), names, palette=palette))
    assert np.array_equal(right, load_kind("boxes").draw(IMAGE, detections(0.9), NAMES))
