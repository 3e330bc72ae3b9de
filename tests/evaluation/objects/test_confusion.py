"""The confusion matrix on cases worked out by hand. Classes 0 and 1; index 2 is background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from detseg.evaluation.objects.confusion import ConfusionMatrix
from detseg.structures import Detections, GroundTruth

Box = tuple[float, float, float, float]
HERE, LARGER, THERE = (0, 0, 10, 10), (0, 0, 10, 12), (50, 50, 70, 70)


def update(
    matrix: ConfusionMatrix, found: Sequence[tuple[Box, float, int]], objects: Sequence[tuple[Box, int, bool]]
) -> None:
    """``found``: (xyxy, score, label); ``objects``: (xyxy, label, crowd)."""
    boxes_xywh = np.array([row[0] for row in objects], np.float64).reshape(-1, 4)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    matrix.update(
        Detections(
            np.array([row[0] for row in found], np.float32).reshape(-1, 4),
            np.array([row[1] for row in found], np.float32),
            np.array([row[2] for row in found], np.int64),
        ),
        GroundTruth(
            image_id=1,
            height=100,
            width=100,
            boxes_xywh=boxes_xywh,
            labels=np.array([row[1] for row in objects], np.int64),
            crowd=np.array([row[2] for row in objects], np.bool_),
            areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        ),
    )


@pytest.mark.parametrize(
    ("found", "objects", "expected"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([(HERE, 0.9, 0)], [(HERE, 0, False)], {(0, 0): 1}, id="right"),
        pytest.param([(HERE, 0.9, 1)], [(HERE, 0, False)], {(0, 1): 1}, id="taken for the other class"),
        pytest.param([], [(HERE, 1, False)], {(1, 2): 1}, id="missed"),
        pytest.param([(HERE, 0.9, 1)], [], {(2, 1): 1}, id="invented"),
        pytest.param([(HERE, 0.24, 0)], [(HERE, 0, False)], {(0, 2): 1}, id="below the confidence"),
        pytest.param([(HERE, 0.25, 0)], [(HERE, 0, False)], {(0, 0): 1}, id="at the confidence"),
        # 100 of 200 px
        pytest.param([((0, 0, 10, 20), 0.9, 0)], [(HERE, 0, False)], {(0, 0): 1}, id="at the IoU"),
        pytest.param([((0, 0, 10, 21), 0.9, 0)], [(HERE, 0, False)], {(0, 2): 1, (2, 0): 1}, id="below the IoU"),
        pytest.param(
            [(LARGER, 0.7, 0), (HERE, 0.8, 1)], [(HERE, 0, False)], {(0, 0): 1, (2, 1): 1}, id="the own class first"
        ),
        pytest.param(
            [(HERE, 0.7, 0), (LARGER, 0.8, 0)], [(HERE, 0, False)], {(0, 0): 1, (2, 0): 1}, id="then the best score"
        ),
        pytest.param(
            [(HERE, 0.3, 1), (HERE, 0.8, 0)], [(HERE, 0, False)], {(0, 0): 1, (2, 1): 1}, id="equal IoUs"
        ),
        pytest.param(
            # each would fit the object of the other class better
            [(LARGER, 0.9, 0), (HERE, 0.8, 1)],
            [(LARGER, 1, False), (HERE, 0, False)],
            {(0, 0): 1, (1, 1): 1},
            id="two pairs",
        ),
        pytest.param(
            [(HERE, 0.8, 0), (THERE, 0.9, 1)],
            [(LARGER, 1, False), (THERE, 0, False)],
            {(1, 0): 1, (0, 1): 1},
            id="two confusions",
        ),
        pytest.param([], [(HERE, 0, True)], {}, id="a crowd is not missed"),
        pytest.param([((55, 55, 60, 60), 0.9, 0)] * 3, [(THERE, 0, True)], {}, id="detections in a crowd do not count"),
        pytest.param([((40, 50, 60, 70), 0.9, 0)], [(THERE, 0, True)], {}, id="half in a crowd"),
        pytest.param([((39, 50, 60, 70), 0.9, 0)], [(THERE, 0, True)], {(2, 0): 1}, id="less than half"),
        pytest.param([((55, 55, 60, 60), 0.9, 1)], [(THERE, 0, True)], {(2, 1): 1}, id="a crowd of another class"),
        pytest.param(
            [(HERE, 0.9, 0)], [((0, 0, 40, 40), 0, True), (HERE, 0, False)], {(0, 0): 1}, id="object in a crowd"
        ),
        pytest.param([((5, 5, 5, 5), 0.9, 0)], [(HERE, 0, False)], {(0, 2): 1, (2, 0): 1}, id="a box without area"),
        pytest.param([((55, 55, 55.5, 55.5), 0.9, 0)], [(THERE, 0, True)], {}, id="less than a pixel, in a crowd"),
        pytest.param(
            [(HERE, 0.9, 0)], [((20, 0, 30, 10), 1, False)] * 2 + [(HERE, 0, False)], {(0, 0): 1, (1, 2): 2},
            id="more objects than detections",
        ),
    ],
)  # fmt: skip
def test_by_hand(
    found: list[tuple[Box, float, int]], objects: list[tuple[Box, int, bool]], expected: dict[tuple[int, int], int]
) -> None:
    matrix = ConfusionMatrix(["a", "b"])
    update(matrix, found, objects)
    counts = {
        (int(row), int(column)): int(matrix.counts[row, column])
        for row, column in zip(*np.nonzero(matrix.counts), strict=True)
    }
    assert counts == expected


def test_boxes_that_share_nothing_are_no_pair_at_any_threshold() -> None:
    matrix = ConfusionMatrix(["a", "b"], iou=0)
    update(matrix, [(HERE, 0.9, 0)], [(THERE, 0, False)])
    assert matrix.counts.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_images_add_up() -> None:
    matrix = ConfusionMatrix(["a", "b"], confidence=0.5, iou=0.9)
    for _ in range(3):
        update(matrix, [(LARGER, 0.6, 0), (THERE, 0.4, 0)], [(HERE, 0, False), (THERE, 1, False)])
    assert matrix.counts.tolist() == [[0, 0, 3], [0, 0, 3], [3, 0, 0]]


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=f"labels from {label} to {label}; allowed are 0 to 1"):
        update(ConfusionMatrix(["a", "b"]), [(HERE, 0.9, label)], [])


@pytest.mark.parametrize("value", [-0.5, 1.5])
@pytest.mark.parametrize("name", ["confidence", "iou"])
def test_thresholds_outside_zero_to_one_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got {value}"):
        ConfusionMatrix(["a"], **{name: value})
