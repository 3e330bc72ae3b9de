"""Errors of objects with masks: judged by the masks, whatever the boxes say, and drawn with them."""

from __future__ import annotations

import cv2
import numpy as np

from detseg.evaluation.hardest import MARKS
from detseg.evaluation.objects.errors import Outcome, find_box_errors
from detseg.evaluation.objects.hardest_instances import HardestInstances
from detseg.evaluation.objects.instances import InstanceEvaluator
from detseg.evaluation.objects.mask_overlaps import mask_overlaps
from detseg.run_lengths import RunLengths, pack_masks
from detseg.structures import GroundTruth, Instances

SIZE = (80, 120)


def block(left: int, top: int, width: int, height: int) -> RunLengths:
    return RunLengths.from_crop(np.ones((height, width), bool), left, top, *SIZE)


NOTHING = RunLengths.from_mask(np.zeros(SIZE, bool))


def found(*masks: RunLengths, labels: tuple[int, ...]) -> Instances:
    """Each in a box that is the whole image."""
    boxes = np.array([[0, 0, 120, 80]] * len(masks), np.float32)
    return Instances(boxes, np.linspace(0.9, 0.5, len(masks), dtype=np.float32), np.array(labels), None, masks)


def truth(*masks: RunLengths, labels: tuple[int, ...], crowd: tuple[bool, ...] | None = None) -> GroundTruth:
    boxes = np.array([[0, 0, 120, 80]] * len(masks), np.float64)
    areas = np.array([mask.area for mask in masks], np.float64)
    return GroundTruth(1, *SIZE, boxes, np.array(labels), np.array(crowd or (False,) * len(masks)), areas, masks)


def test_overlaps_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((2, 4, *SIZE)) < 0.3
    dense[0, 3] = False
    dense[1, 2, 10:] = dense[0, 2, :60] = False
    crowd = np.array([False, True, False, False])
    given = truth(*pack_masks(dense[1]), labels=(0,) * 4, crowd=tuple(crowd.tolist()))
    overlaps = mask_overlaps(found(*pack_masks(dense[0]), labels=(0,) * 4), given)
    common = (dense[0][:, None] & dense[1][None]).sum(axis=(2, 3))
    sums = [some.sum(axis=(1, 2)) for some in dense]
    whole = np.where(crowd, sums[0][:, None], sums[0][:, None] + sums[1] - common)
    expected = np.divide(common, whole, out=np.zeros((4, 4)), where=whole > 0)
    np.testing.assert_allclose(overlaps, expected, atol=1e-12)


def test_masks_decide_what_is_right() -> None:
    objects = truth(block(0, 0, 40, 40), block(60, 0, 40, 40), block(0, 50, 20, 20), labels=(0, 1, 0))
    result = found(block(2, 0, 40, 40), block(60, 45, 40, 30), block(60, 0, 40, 38), NOTHING, labels=(0, 1, 0, 1))
    errors = find_box_errors(result, objects, np.zeros(2), measure=mask_overlaps)
    assert errors.outcomes.tolist() == [
        Outcome.RIGHT, Outcome.FALSE_POSITIVE, Outcome.WRONG_CLASS, Outcome.FALSE_POSITIVE,
    ]  # fmt: skip
    assert errors.missed.tolist() == [False, False, True]
    by_boxes = find_box_errors(result, objects, np.zeros(2))
    assert by_boxes.outcomes.tolist() != errors.outcomes.tolist(), "the boxes are all equal"


def test_the_hardest_images_show_masks() -> None:
    evaluator = InstanceEvaluator(["cat", "dog"])
    hardest = HardestInstances(["cat", "dog"], 2, lambda index: np.full((*SIZE, 3), 60, np.uint8))
    objects = truth(block(0, 0, 40, 40), block(80, 40, 40, 40), labels=(0, 1))
    result = found(block(1, 0, 40, 40), block(50, 0, 30, 30), labels=(0, 0))
    evaluator.update(1, result, objects)
    hardest.add(0, result, objects)
    (candidate,), tally = hardest.find(evaluator)
    assert tally.counts.sum(axis=0).tolist() == [1, 0, 0, 0, 1], "at the confidence of best F1 one object is found"
    assert candidate.difficulty == 1
    image = cv2.imdecode(np.frombuffer(candidate.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    scale = image.shape[1] // SIZE[1]
    for (x, y), mark in (((20, 20), Outcome.RIGHT), ((100, 60), Outcome.MISS)):
        shown = image[y * scale, x * scale].astype(int)
        expected = 60 * 0.55 + np.array(MARKS[mark].color) * 0.45
        assert np.abs(shown - expected).max() < 12, mark
    assert "masks" in hardest.measure
