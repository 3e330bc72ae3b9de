"""Masks of objects on images: in their color, within outlines, the better score in front."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.compare import compare_instances
from detseg.runtime.drawing.instances import draw_instances, tint
from detseg.runtime.drawing.known_colors import Color
from detseg.runtime.drawing.palette import color_of, palette_of
from detseg.structures import GroundTruth, Instances

NAMES = ("cat", "dog")
IMAGE = np.full((80, 120, 3), 100, np.uint8)


def block(left: int, top: int, width: int, height: int) -> RunLengths:
    return RunLengths.from_crop(np.ones((height, width), bool), left, top, 80, 120)


def found(*masks: RunLengths, labels: tuple[int, ...] = (0, 1), scores: tuple[float, ...] = (0.9, 0.8)) -> Instances:
    boxes = np.array([mask.box_xywh for mask in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    count = len(masks)
    return Instances(boxes, np.array(scores[:count], np.float32), np.array(labels[:count], np.int64), None, masks)


COLORS = palette_of(NAMES)


def blended(color: Color) -> list[int]:
    return np.round(100 * 0.55 + np.array(color) * 0.45).astype(int).tolist()


def test_masks_are_tinted_and_nothing_else() -> None:
    masks = (block(10, 30, 40, 40), block(70, 30, 40, 40))
    image = tint(IMAGE, (mask.to_crop() for mask in masks), [COLORS[0], COLORS[1]])
    assert image[50, 30].tolist() == blended(COLORS[0])
    assert image[50, 90].tolist() == blended(COLORS[1])
    assert image[30, 30].tolist() == list(COLORS[0]), "the outline"
    changed = (image != IMAGE).any(axis=2)
    assert np.array_equal(changed, masks[0].to_mask() | masks[1].to_mask())
    assert (IMAGE == 100).all(), "of the image given, nothing"


def test_holes_are_not_tinted() -> None:
    mask = block(10, 10, 40, 40).to_mask()
    mask[20:35, 20:35] = False
    image = tint(IMAGE, [(mask, 0, 0)], [COLORS[0]])
    assert image[27, 27].tolist() == [100, 100, 100]


def test_the_better_score_is_in_front() -> None:
    masks = block(10, 20, 60, 50), block(40, 20, 60, 50)
    for scores, label in (((0.9, 0.3), 0), ((0.3, 0.9), 1)):
        image = draw_instances(IMAGE, found(*masks, scores=scores), NAMES)
        alone = draw_instances(IMAGE, found(masks[label], labels=(label,), scores=(0.9,)), NAMES)
        behind = np.abs(image[60, 55].astype(int) - COLORS[1 - label]).sum()
        in_front = np.abs(image[60, 55].astype(int) - COLORS[label]).sum()
        assert in_front < behind
        assert (alone != IMAGE).any()


def test_tracks_have_their_own_colors() -> None:
    masks = (block(10, 30, 40, 40),)
    one = found(*masks)
    tracked = Instances(one.boxes_xyxy, one.scores, one.labels, np.array([5]), masks)
    assert draw_instances(IMAGE, tracked, NAMES)[50, 30].tolist() == blended(color_of(5))


def test_masks_of_another_image_are_refused() -> None:
    small = np.zeros((40, 60, 3), np.uint8)
    words = "masks of 80x120 pixels do not fit an image of 40x60"
    with pytest.raises(ValueError, match=words):
        draw_instances(small, found(block(0, 0, 5, 5)), NAMES)
    truth = GroundTruth(
        1, 80, 120, np.zeros((1, 4)), np.zeros(1, np.int64), np.zeros(1, bool), np.zeros(1), (block(0, 0, 5, 5),)
    )
    with pytest.raises(ValueError, match=words):
        compare_instances(small, truth, found(), NAMES)


def test_truth_and_what_was_found_are_side_by_side() -> None:
    truth = GroundTruth(
        1, 80, 120, np.array([[10.0, 30, 40, 40]]), np.array([0]), np.array([False]), np.array([1600.0]),
        (block(10, 30, 40, 40),),
    )  # fmt: skip
    sheet = compare_instances(IMAGE, truth, found(block(70, 30, 40, 40), scores=(0.2,)), NAMES)
    count = int((sheet == np.array(blended(COLORS[0]))).all(axis=2).sum())
    assert count > 1000
    seen = compare_instances(IMAGE, truth, found(block(70, 30, 40, 40)), NAMES)
    assert int((seen == np.array(blended(COLORS[0]))).all(axis=2).sum()) > 2 * count - 200, (
        "scores under 0.25 are not shown"
    )
