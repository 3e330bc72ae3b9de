"""Curves of F1, calibration and error shares on cases worked out by hand, and against the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.evaluation.objects.calibration import calibrate
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.objects.f1 import f1_curves
from detseg.evaluation.objects.matching import match_boxes
from detseg.evaluation.objects.scored import Fault, ScoredBoxes, score_boxes
from detseg.evaluation.objects.shares import average_precision, error_shares
from detseg.structures import Detections, GroundTruth

NAMES = ("a", "b", "c")
Box = tuple[float, float, float, float]
HERE, NEAR, LARGER, THERE = (0, 0, 10, 10), (5, 0, 15, 10), (0, 0, 10, 12), (50, 50, 70, 70)


def detections(*rows: tuple[Box, float, int]) -> Detections:
    """From (xyxy, score, label)."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
    )


def objects(*rows: tuple[Box, int] | tuple[Box, int, bool], image_id: int = 1) -> GroundTruth:
    """From (xyxy, label) and whether it is a crowd region."""
    boxes_xywh = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return GroundTruth(
        image_id=image_id,
        height=100,
        width=100,
        boxes_xywh=boxes_xywh,
        labels=np.array([row[1] for row in rows], np.int64),
        crowd=np.array([len(row) > 2 and row[2] for row in rows], np.bool_),
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
    )


def random_images(seed: int, num_images: int) -> list[tuple[Detections, GroundTruth]]:
    """Images with objects of three classes, many boxes around them, and boxes of nothing; scores have ties."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(num_images):
        rows, found = [], []
        for _ in range(rng.integers(0, 8)):
            left, top = rng.uniform(0, 60, 2)
            box = (left, top, left + rng.uniform(8, 40), top + rng.uniform(8, 40))
            label, crowd = int(rng.integers(0, 3)), bool(rng.random() < 0.1)
            rows.append((box, label, crowd))
            for _ in range(rng.integers(0, 4)):
                shaken = np.array(box) + rng.normal(0, 5, 4)
                if (shaken[2:] > shaken[:2]).all():
                    claimed = label if rng.random() < 0.7 else int(rng.integers(0, 3))
                    found.append((tuple(shaken), round(float(rng.random()), 2), claimed))
        found += [(HERE, round(float(rng.random()), 2), int(rng.integers(0, 3))) for _ in range(rng.integers(0, 3))]
        images.append((detections(*found), objects(*rows, image_id=image_id)))
    return images


def judged(images: list[tuple[Detections, GroundTruth]]) -> CocoEvaluator:
    evaluator = CocoEvaluator(NAMES)
    for found, truth in images:
        evaluator.update(truth.image_id, found, truth)
    return evaluator


def test_overlaps() -> None:
    truth = objects((HERE, 0), (NEAR, 0), ((10, 0, 20, 10), 0), ((0, 0, 5, 10), 0, True))
    match = match_boxes(detections((HERE, 0.9, 0), ((5, 5, 5, 5), 0.8, 0)), truth)
    # With the crowd region it is the share of the box.
    assert match.overlaps == pytest.approx(np.array([[1, 50 / 150, 0, 0.5], [0, 0, 0, 0]]))
    assert match.objects.tolist() == [0, -1]
    assert match.in_crowd.tolist() == [False, False]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curve_and_confusion_matrix_agree_at_every_confidence(seed: int) -> None:
    evaluator = judged(random_images(seed, 40))
    for confidence in (0.0, 0.1, 0.25, 0.5, 0.8, 0.99):
        counts = evaluator.confusion_matrix(confidence).counts
        right, found, true = counts.diagonal()[:3], counts[:, :3].sum(axis=0), counts[:3].sum(axis=1)
        expected = 2 * right / (found + true)
        assert [curve.at(confidence) for curve in evaluator.f1_curves()] == pytest.approx(expected.tolist())
    # And with what COCO counts: the recall of all boxes.
    recalls = [curve.num_right[-1] / curve.num_objects for curve in evaluator.f1_curves()]
    accumulated = evaluator._accumulate()
    assert recalls == pytest.approx(accumulated.recall[0, :, 0, -1].tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_equals_that_of_coco(seed: int) -> None:
    images = random_images(seed, 40)
    assert average_precision(score_boxes(images, 3)) == pytest.approx(judged(images).compute()["AP50"])


def test_a_curve_by_hand() -> None:
    images = [
        (
            detections((HERE, 0.9, 0), (HERE, 0.5, 0), (THERE, 0.5, 0), (THERE, 0.3, 1)),
            objects((HERE, 0), (THERE, 0), (THERE, 2)),
        ),
        (detections(((30, 30, 40, 40), 0.2, 0)), objects(image_id=2)),
    ]
    first, last = f1_curves(score_boxes(images, 3), NAMES, 0.5)
    assert (first.class_name, last.class_name) == ("a", "c")
    # One right at 0.9; at 0.5 a second one, and one for an object that is taken; at 0.2 one of nothing.
    assert first.confidences.tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert first.f1.tolist() == pytest.approx([2 / 3, 4 / 5, 4 / 6])
    assert first.best() == pytest.approx((0.8, 0.5))
    assert [first.at(confidence) for confidence in (0.95, 0.6, 0.5, 0.0)] == pytest.approx([0, 2 / 3, 4 / 5, 4 / 6])
    assert last.best() == (0, 0)
    assert last.at(0.1) == 0


def test_calibration_by_hand() -> None:
    images = [
        # 0.81 and 0.83 are in one bin, of which one is right; 0.26 is right, 0.2 is not shown
        (
            detections((HERE, 0.83, 0), (HERE, 0.81, 0), (THERE, 0.26, 1), (THERE, 0.2, 0)),
            objects((HERE, 0), (THERE, 1)),
        )
    ]
    calibration = calibrate(score_boxes(images, 3))
    filled = np.flatnonzero(calibration.num_boxes)
    assert filled.tolist() == [5, 16]
    assert calibration.num_boxes[filled].tolist() == [1, 2]
    assert calibration.precision[filled].tolist() == [1, 0.5]
    assert calibration.mean_score[filled].tolist() == pytest.approx([0.26, 0.82])
    assert calibration.error == pytest.approx((1 * 0.74 + 2 * 0.32) / 3)
    assert calibrate(score_boxes([], 3)).error == -1


def test_scores_of_one_are_in_the_last_bin() -> None:
    assert calibrate(score_boxes([(detections((HERE, 1.0, 0)), objects((HERE, 0)))], 3)).num_boxes[-1] == 1


@pytest.mark.parametrize(
    ("box", "label", "fault", "has_target"),
    [
        ((6, 0, 16, 10), 0, Fault.LOCATION, True),
        (HERE, 1, Fault.CLASS, True),
        ((9, 0, 19, 10), 0, Fault.BACKGROUND, False),
        ((6, 0, 16, 10), 2, Fault.BOTH, False),
    ],
)
def test_faults_by_hand(box: Box, label: int, fault: Fault, has_target: bool) -> None:
    boxes = score_boxes([(detections((box, 0.9, label)), objects((HERE, 0), (THERE, 1)))], 3)
    assert boxes.faults.tolist() == [fault]
    assert (boxes.targets >= 0).tolist() == [has_target]
    assert boxes.num_missed.sum() == 2 - has_target


def test_the_place_is_asked_before_the_class() -> None:
    boxes = score_boxes([(detections((HERE, 0.9, 1)), objects((HERE, 0), (NEAR, 1)))], 3)
    assert boxes.faults.tolist() == [Fault.LOCATION]
    assert boxes.target_labels.tolist() == [1]


def test_second_boxes_and_crowds() -> None:
    truth = objects((HERE, 0), ((0, 0, 40, 40), 1, True))
    boxes = score_boxes([(detections((HERE, 0.9, 0), (LARGER, 0.8, 0), (LARGER, 0.7, 1)), truth)], 3)
    assert boxes.right.tolist() == [True, False], "the third lies in a crowd"
    assert boxes.faults.tolist() == [-1, Fault.DUPLICATE]
    assert boxes.num_objects.tolist() == [1, 0, 0]


def shares(found: Any, truth: Any) -> dict[str, float]:
    return dict(error_shares(score_boxes([(detections(*found), objects(*truth))], 3)))


NOTHING = dict.fromkeys(("class", "location", "both", "duplicate", "background", "missed"), 0.0)


def test_shares_by_hand() -> None:
    assert shares([(HERE, 0.9, 0)], [(HERE, 0)]) == NOTHING
    assert shares([], [(HERE, 0)]) == {**NOTHING, "missed": 0}, "without any object left there is no AP"
    # Class a has AP 0 and b, of which there is no object, 0: right, a has 1 and b is gone.
    assert shares([(HERE, 0.9, 1)], [(HERE, 0)]) == {**NOTHING, "class": 1}
    assert shares([((6, 0, 16, 10), 0.9, 0)], [(HERE, 0)]) == {**NOTHING, "location": 1}
    # A better box of nothing: precision 1/2 at every recall.
    assert shares([(THERE, 0.9, 0), (HERE, 0.8, 0)], [(HERE, 0)]) == pytest.approx({**NOTHING, "background": 0.5})
    # One of two objects: the recalls up to 0.5, 51 of 101.
    assert shares([(HERE, 0.9, 0)], [(HERE, 0), (THERE, 0)]) == pytest.approx({**NOTHING, "missed": 50 / 101})
    # A second box between two right ones: 51 recalls at precision 1 and 50 at 2/3.
    double = [(HERE, 0.9, 0), (LARGER, 0.8, 0), (THERE, 0.7, 0)]
    assert shares(double, [(HERE, 0), (THERE, 0)]) == pytest.approx({**NOTHING, "duplicate": 50 / 101 / 3})
    assert error_shares(score_boxes([(detections((HERE, 0.9, 0)), objects())], 3)) == {}


def test_only_the_best_of_several_is_put_right() -> None:
    # Both are near the one object: right, the better one has it and the other is gone.
    found = [((6, 0, 16, 10), 0.9, 0), ((0, 6, 10, 16), 0.8, 0)]
    assert shares(found, [(HERE, 0)]) == {**NOTHING, "location": 1}
    # The better one has the wrong class, so the other would not be needed: to mend it gains nothing.
    assert shares([(HERE, 0.9, 1), ((6, 0, 16, 10), 0.8, 0)], [(HERE, 0)]) == {**NOTHING, "class": 1}


def without_crowds(images: list[tuple[Detections, GroundTruth]]) -> list[tuple[Detections, GroundTruth]]:
    """The same with boxes of different scores, as the order of equal ones is nobody's rule."""
    changed = []
    for found, truth in images:
        kept = [(tuple(box), int(label)) for box, label in zip(truth.boxes_xyxy, truth.labels, strict=True)]
        rows = [row for row, crowd in zip(kept, truth.crowd, strict=True) if not crowd]
        scores = np.random.default_rng(truth.image_id).random(len(found)).astype(np.float32)
        changed.append((Detections(found.boxes_xyxy, scores, found.labels), objects(*rows, image_id=truth.image_id)))
    return changed


@pytest.mark.parametrize(
    ("seed", "average", "expected"),
    [
        (0, 11.5233, (3.56456, 25.13859, 1.13795, 0.52383, 3.26277, 3.48991)),
        (5, 17.1221, (2.54105, 26.80249, 1.35812, 0.75051, 5.15289, 5.27340)),
    ],
)
def test_shares_equal_those_of_tide(seed: int, average: float, expected: tuple[float, ...]) -> None:
    """In percent, from tidecv 1.0.1 (``TIDE().evaluate(..., mode=TIDE.BOX)``) on the same boxes."""
    boxes = score_boxes(without_crowds(random_images(seed, 60)), 3)
    assert 100 * average_precision(boxes) == pytest.approx(average, abs=1e-4)
    assert [100 * share for share in error_shares(boxes).values()] == pytest.approx(list(expected), abs=1e-3)


def test_what_an_evaluator_says_of_its_numbers() -> None:
    evaluator = judged(random_images(5, 30))
    said = evaluator.diagnose()
    names = [f"dAP50_{kind}" for kind in NOTHING]
    assert list(said)[:9] == ["F1", "F1_confidence", "ECE", *names]
    assert list(said)[9:] == [f"{name}/{of}" for name in ("F1", "F1_confidence") for of in NAMES]
    assert all(0 <= value <= 1 for value in said.values())
    counts = evaluator.confusion_matrix(said["F1_confidence"]).counts
    right = counts.diagonal()[:3].sum()
    assert said["F1"] == pytest.approx(2 * right / (counts[:, :3].sum() + counts[:3].sum()))


def test_nothing_is_said_of_nothing() -> None:
    nothing = judged([(detections(), objects())]).diagnose()
    assert nothing == {"F1": -1, "F1_confidence": -1, "ECE": -1}
    missed = judged([(detections(), objects((HERE, 1)))]).diagnose()
    assert missed["F1"] == 0
    assert missed["F1_confidence"] == missed["F1_confidence/b"] == -1
    with pytest.raises(ValueError, match="no image was evaluated"):
        CocoEvaluator(NAMES).diagnose()


def test_types_of_an_empty_table() -> None:
    boxes: ScoredBoxes = score_boxes([], 3)
    assert len(boxes.scores) == 0
    assert f1_curves(boxes, NAMES, 0.5) == []
