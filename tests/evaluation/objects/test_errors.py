"""Errors on cases worked out by hand. Classes 0, 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.objects.errors import (
    USUAL_CONFIDENCE,
    BoxErrors,
    Outcome,
    best_confidences,
    find_box_errors,
)
from detseg.evaluation.objects.f1 import F1Curve, f1_at
from detseg.evaluation.objects.scored import ScoredBoxes
from detseg.structures import Detections, GroundTruth

Box = tuple[float, float, float, float]
NAMES = ("a", "b", "c")
HALF = np.full(3, 0.5)
HERE, THERE = (0, 0, 10, 10), (50, 50, 70, 70)
RIGHT, FALSE_POSITIVE, WRONG_CLASS, BADLY_PLACED, MISS = Outcome


def detections(*rows: tuple[Box, float, int]) -> Detections:
    """From (xyxy, score, label)."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
    )


def objects(*rows: tuple[Box, int, bool], image_id: int = 1) -> GroundTruth:
    """From (xyxy, label, crowd)."""
    boxes_xywh = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return GroundTruth(
        image_id=image_id,
        height=100,
        width=100,
        boxes_xywh=boxes_xywh,
        labels=np.array([row[1] for row in rows], np.int64),
        crowd=np.array([row[2] for row in rows], np.bool_),
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
    )


A_HERE = (HERE, 0, False)
CROWD_HERE = ((0, 0, 40, 40), 0, True)


@pytest.mark.parametrize(
    ("found", "true", "outcomes", "partners", "missed", "num_errors"),
    [
        pytest.param([], [], [], [], [], 0, id="nothing"),
        pytest.param([(HERE, 0.9, 0)], [A_HERE], [RIGHT], [0], [False], 0, id="right"),
        pytest.param([(HERE, 0.5, 0)], [A_HERE], [RIGHT], [0], [False], 0, id="at the confidence"),
        pytest.param([(HERE, 0.49, 0)], [A_HERE], [], [], [True], 1, id="below the confidence"),
        pytest.param([(HERE, 0.9, 0)], [], [FALSE_POSITIVE], [-1], [], 1, id="nothing is there"),
        # 100 of 200 px
        pytest.param([((0, 0, 10, 20), 0.9, 0)], [A_HERE], [RIGHT], [0], [False], 0, id="at the IoU"),
        pytest.param([((0, 0, 10, 21), 0.9, 0)], [A_HERE], [BADLY_PLACED], [0], [False], 2, id="below the IoU"),
        # 100 of 1000 px, and of 1010
        pytest.param([((0, 0, 10, 100), 0.9, 0)], [A_HERE], [BADLY_PLACED], [0], [False], 2, id="barely near"),
        pytest.param([((0, 0, 10, 101), 0.9, 0)], [A_HERE], [FALSE_POSITIVE], [-1], [True], 2, id="not near"),
        pytest.param([(HERE, 0.9, 1)], [A_HERE], [WRONG_CLASS], [0], [False], 2, id="wrong class"),
        pytest.param([((0, 0, 10, 20), 0.9, 1)], [A_HERE], [WRONG_CLASS], [0], [False], 2, id="wrong, at the IoU"),
        pytest.param(
            [((0, 0, 0.5, 0.5), 0.9, 0)], [((0, 0, 0.5, 0.75), 0, False)], [RIGHT], [0], [False], 0,
            id="smaller than a pixel",
        ),
        pytest.param(
            [((0, 0, 10, 21), 0.9, 1)], [A_HERE], [FALSE_POSITIVE], [-1], [True], 2, id="wrong class, wrong place"
        ),
        pytest.param(
            [(HERE, 0.6, 0), ((0, 0, 10, 11), 0.9, 0)],
            [A_HERE], [RIGHT, FALSE_POSITIVE], [0, -1], [False], 1, id="twice, the better score counts",
        ),
        pytest.param(
            [(HERE, 0.9, 1), (HERE, 0.6, 0)],
            [A_HERE], [FALSE_POSITIVE, RIGHT], [-1, 0], [False], 1, id="the right class goes before the better score",
        ),
        # Boxes that overlap both objects: IoU 90 / 110 and 100 / 100.
        pytest.param(
            [((0, 0, 10, 10), 0.9, 0)],
            [((1, 0, 11, 10), 0, False), A_HERE], [RIGHT], [1], [True, False], 1, id="the larger overlap",
        ),
        pytest.param(
            [(HERE, 0.9, 0)], [A_HERE, A_HERE], [RIGHT], [1], [True, False], 1, id="of equals the last, as in COCO"
        ),
        pytest.param([(HERE, 0.9, 0)], [CROWD_HERE], [], [], [False], 0, id="in a crowd"),
        pytest.param([(HERE, 0.9, 1)], [CROWD_HERE], [FALSE_POSITIVE], [-1], [False], 1, id="in another's crowd"),
        pytest.param(
            [(HERE, 0.9, 0)], [CROWD_HERE, A_HERE], [RIGHT], [1], [False, False], 0, id="an object goes before a crowd"
        ),
        pytest.param(
            [((40, 0, 60, 10), 0.9, 0)], [CROWD_HERE], [FALSE_POSITIVE], [-1], [False], 1, id="beside a crowd"
        ),
        # 199 of 400 px lie in the crowd, half a percent too few
        pytest.param(
            [((30.05, 0, 50.05, 20), 0.9, 0)], [CROWD_HERE], [FALSE_POSITIVE], [-1], [False], 1, id="half in a crowd"
        ),
    ],
)  # fmt: skip
def test_outcomes(
    found: Sequence[Any],
    true: Sequence[Any],
    outcomes: list[Outcome],
    partners: list[int],
    missed: list[bool],
    num_errors: int,
) -> None:
    errors = find_box_errors(detections(*found), objects(*true), HALF)
    # in the order of the scores
    assert sorted(errors.found.scores.tolist(), reverse=True) == errors.found.scores.tolist()
    assert errors.outcomes.tolist() == outcomes
    assert errors.objects.tolist() == partners
    assert (errors.missed.tolist(), errors.num_errors) == (missed, num_errors)


def test_each_box_with_its_outcome_and_object() -> None:
    found = detections((HERE, 0.6, 0), (THERE, 0.9, 1), ((0, 0, 10, 11), 0.8, 0), ((80, 80, 90, 90), 0.7, 2))
    truth = objects((THERE, 2, False), A_HERE, ((80, 80, 90, 84), 2, False))
    errors = find_box_errors(found, truth, np.array([0.5, 0.5, 0.5]))
    assert errors.found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert errors.outcomes.tolist() == [WRONG_CLASS, RIGHT, BADLY_PLACED, FALSE_POSITIVE]
    assert errors.objects.tolist() == [0, 1, 2, -1]
    assert errors.overlaps.tolist() == pytest.approx([1, 100 / 110, 0.4, 0])
    assert [errors.count(outcome) for outcome in Outcome] == [1, 1, 1, 1, 0]
    # 1 false positive and no miss, and twice both
    assert errors.num_errors == 5
    # The object of class 2 that was taken for class 1 counts for class 2.
    assert errors.tally(truth, 3).tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]
    all_missed = find_box_errors(detections(), truth, HALF)
    assert all_missed.tally(truth, 3)[:, MISS].tolist() == [1, 0, 2]


def random_images(seed: int, num_images: int) -> list[tuple[Detections, GroundTruth]]:
    """Images of up to 6 objects, some of them crowds, and boxes shaken more or less, some of other classes."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(num_images):
        corners = rng.uniform(0, 60, (rng.integers(0, 7), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 40, corners.shape)], axis=1)
        labels = rng.integers(0, 3, len(boxes))
        rows = [(tuple(box), label, rng.random() < 0.15) for box, label in zip(boxes, labels, strict=True)]
        found: list[tuple[Any, float, int]] = []
        for box, label, _ in rows * 2:
            shaken = np.array(box) + rng.normal(0, 4, 4)
            if (shaken[2:] > shaken[:2]).all():
                found.append((tuple(shaken), rng.random(), label if rng.random() < 0.8 else rng.integers(0, 3)))
        images.append((detections(*found), objects(*rows, image_id=image_id)))
    return images


def judged(images: Sequence[tuple[Detections, GroundTruth]]) -> CocoEvaluator:
    evaluator = CocoEvaluator(NAMES)
    for found, truth in images:
        evaluator.update(truth.image_id, found, truth)
    return evaluator


def test_what_is_right_agrees_with_pycocotools() -> None:
    images = random_images(0, 40)
    evaluator = judged(images)
    # Nothing is left out, so the highest recall is that of all boxes.
    everything = [find_box_errors(found, truth, np.zeros(3)) for found, truth in images]
    tally = sum(errors.tally(truth, 3) for errors, (_, truth) in zip(everything, images, strict=True))
    num_objects = [sum(int(((t.labels == label) & ~t.crowd).sum()) for _, t in images) for label in range(3)]
    num_right = tally[:, RIGHT]
    for label, curve in enumerate(evaluator.precision_recall_curves()):
        reached = np.flatnonzero(curve.precision > 0)[-1] / 100
        assert reached <= num_right[label] / num_objects[label] < reached + 0.01
    assert 0.3 < num_right.sum() / sum(num_objects) < 0.95
    # Every object is right, taken for another, badly placed, or missed.
    assert tally[:, [RIGHT, WRONG_CLASS, BADLY_PLACED, MISS]].sum(axis=1).tolist() == num_objects


def test_the_errors_of_images_add_up_to_what_f1_lacks() -> None:
    images = random_images(1, 30)
    confidences = best_confidences(judged(images).f1_curves(), NAMES)
    all_errors: list[BoxErrors] = [find_box_errors(found, truth, confidences) for found, truth in images]
    num_right = sum(errors.count(RIGHT) for errors in all_errors)
    num_found = sum(len(errors.found) for errors in all_errors)
    num_objects = sum(int((~truth.crowd).sum()) for _, truth in images)
    f1 = 2 * num_right / (num_found + num_objects)
    shares = [errors.num_errors / (num_found + num_objects) for errors in all_errors]
    assert sum(shares) == pytest.approx(1 - f1)
    assert 0.05 < f1 < 0.95


def test_confidences_of_best_f1() -> None:
    # F1 is 2/5, 4/6 and 4/8.
    found = F1Curve("c", 0.5, np.array([0.9, 0.4, 0.1]), np.array([1, 2, 2]), np.array([1, 2, 4]), 4)
    never = F1Curve("a", 0.5, np.array([0.9]), np.array([0]), np.array([1]), 4)
    assert best_confidences([never, found], NAMES).tolist() == [USUAL_CONFIDENCE, USUAL_CONFIDENCE, 0.4]


def test_f1_at_chosen_confidences() -> None:
    """Two classes with two objects each; all of the first are found sure, one of the second with little."""
    boxes = ScoredBoxes(
        scores=np.array([0.9, 0.8, 0.4, 0.3]), labels=np.array([0, 0, 1, 1]),
        right=np.array([True, True, True, False]), faults=np.array([-1, -1, -1, 3]),
        targets=np.full(4, -1), target_labels=np.full(4, -1), num_objects=np.array([2, 2]), num_missed=np.array([0, 1]),
    )  # fmt: skip
    # 2 TP / (found + objects)
    assert f1_at(boxes, np.array([0.5, 0.4])) == pytest.approx(2 * 3 / (3 + 4))
    assert f1_at(boxes, np.array([0.85, 0.3])) == pytest.approx(2 * 2 / (3 + 4))
    assert f1_at(boxes, np.array([1.0, 1.0])) == 0.0
