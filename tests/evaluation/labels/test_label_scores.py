"""Scores of one image or volume, worked out by hand and against the evaluators of a whole data set."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.evaluation.labels.dice import VolumeEvaluator
from detseg.evaluation.labels.label_scores import mask_scores, volume_scores
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.structures import IGNORE_INDEX, LabelMap
from detseg.volumes import LabelVolume

NAMES = ("a", "b", "c")
TRUE_MASK = np.array([[0, 0, 1, 1], [0, IGNORE_INDEX, 1, 1]], np.uint8)
FOUND_MASK = np.array([[0, 1, 1, 1], [0, 1, 1, IGNORE_INDEX]], np.uint8)


def test_scores_of_a_mask() -> None:
    scores = mask_scores(LabelMap(FOUND_MASK), TRUE_MASK, NAMES)
    # class 0: 2 of 3 pixels; class 1: 3 pixels of 4 true and 4 found, so 5 in all; nothing holds class 2
    assert scores == pytest.approx({"a": 2 / 3, "b": 3 / 5})
    evaluator = SegmentationEvaluator(NAMES)
    evaluator.update(7, LabelMap(FOUND_MASK), TRUE_MASK)
    assert np.mean(list(scores.values())) == pytest.approx(evaluator.compute()["mIoU"])


def test_scores_of_a_volume() -> None:
    true, found = TRUE_MASK.reshape(2, 2, 2), FOUND_MASK.reshape(2, 2, 2)
    truth, result = LabelVolume(true, np.eye(4)), LabelVolume(found, np.eye(4))
    scores = volume_scores(result, truth, NAMES)
    # class 1: 3 voxels of 4 true and 4 found, as the fifth is ignored in the truth; the background is not judged
    assert scores == pytest.approx({"b": 2 * 3 / 8})
    evaluator = VolumeEvaluator(NAMES)
    evaluator.update(7, result, truth)
    assert scores["b"] == pytest.approx(evaluator.compute()["Dice/b"])


def test_nothing_to_judge() -> None:
    ignored = np.full((2, 3), IGNORE_INDEX, np.uint8)
    assert mask_scores(LabelMap(np.zeros((2, 3), np.uint8)), ignored, NAMES) == {}
    background = LabelVolume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    assert volume_scores(background, background, NAMES) == {}


def test_volumes_of_different_length_are_refused() -> None:
    two, three = (LabelVolume(np.zeros((slices, 2, 2), np.uint8), np.eye(4)) for slices in (2, 3))
    for result, truth in ((two, three), (three, two)):
        with pytest.raises(ValueError, match=r"is (longer|shorter)"):
            volume_scores(result, truth, NAMES)
