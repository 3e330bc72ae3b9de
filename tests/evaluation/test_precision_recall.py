from __future__ import annotations

import numpy as np
import pytest

from detseg.evaluation.precision_recall import PrecisionRecallCurve


def curve(precision: list[float], confidences: list[float]) -> PrecisionRecallCurve:
    recall = np.linspace(0, 1, len(precision))
    return PrecisionRecallCurve("a", 0.5, recall, np.array(precision), np.array(confidences))


def test_average_precision_is_the_mean() -> None:
    assert curve([1, 1, 0.5, 0, 0], [0.9, 0.9, 0.4, 0, 0]).average_precision == 0.5


def test_best_f1_by_hand() -> None:
    # at recall 0, 1/4, 1/2, 3/4, 1: F1 is 0, 2/5, 2/3, 3/5, 0
    f1, confidence = curve([1, 1, 1, 0.5, 0], [0.9, 0.8, 0.7, 0.6, 0]).best_f1()
    assert f1 == pytest.approx(2 / 3)
    assert confidence == 0.7


def test_without_detections_there_is_no_operating_point() -> None:
    assert curve([0, 0, 0], [0, 0, 0]).best_f1() == (0, 0)


def test_f1_by_hand() -> None:
    # at recall 0, 1/2, 1 with precision 0, 1/4, 0: 2 * 1/8 / (3/4) in the middle, and no division by 0 before it
    assert curve([0, 0.25, 0], [0, 0.7, 0]).f1.tolist() == pytest.approx([0, 1 / 3, 0])


def test_a_class_whose_detections_are_all_wrong_has_no_operating_point() -> None:
    assert curve([0, 0, 0], [0.9, 0.8, 0.7]).best_f1() == (0, 0)
