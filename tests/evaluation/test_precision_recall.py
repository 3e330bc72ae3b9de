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
