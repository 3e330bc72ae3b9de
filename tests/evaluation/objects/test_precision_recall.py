from __future__ import annotations

import numpy as np

from detseg.evaluation.objects.precision_recall import PrecisionRecallCurve


def curve(precision: list[float], confidences: list[float]) -> PrecisionRecallCurve:
    recall = np.linspace(0, 1, len(precision))
    return PrecisionRecallCurve("a", 0.5, recall, np.array(precision), np.array(confidences))


def test_average_precision_is_the_mean() -> None:
    assert curve([1, 1, 0.5, 0, 0], [0.9, 0.9, 0.4, 0, 0]).average_precision == 0.5
