"""The best of a one-to-one head, in numpy by hand and in torch as in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.arrays import FloatArray
from detseg.ops.top_k import batched_top_k, best_rows
from detseg.runtime.postprocess.top_k import select_best

BOXES = np.arange(16, dtype=np.float32).reshape(4, 4)
SCORES = np.array([[0.2, 0.9], [0.9, 0.1], [0.3, 0.3], [0.0, 0.5]], np.float32)


def pairs(confidence: float, limit: int, multi_label: bool, kept: list[bool] | None = None) -> tuple[object, int]:
    found, more = select_best(BOXES, SCORES, confidence, limit, multi_label, None if kept is None else np.array(kept))
    assert np.array_equal(found.boxes_xyxy, BOXES[found.anchors])
    assert np.array_equal(found.scores, SCORES[found.anchors, found.labels])
    return list(zip(found.anchors.tolist(), found.labels.tolist(), strict=True)), more


@pytest.mark.parametrize(
    ("confidence", "limit", "multi_label", "kept", "expected"),
    [
        (0.25, 9, True, None, ([(0, 1), (1, 0), (3, 1), (2, 0), (2, 1)], 0)),
        (0.25, 3, True, None, ([(0, 1), (1, 0), (3, 1)], 2)),
        (0.25, 9, False, None, ([(0, 1), (1, 0), (3, 1), (2, 0)], 0)),
        (0.25, 1, False, None, ([(0, 1)], 3)),
        (float(np.float32(0.3)), 9, True, None, ([(0, 1), (1, 0), (3, 1)], 0)),
        (0.0, 9, True, [True, False], ([(1, 0), (2, 0), (0, 0)], 0)),
        (0.0, 9, False, [True, False], ([(1, 0), (2, 0)], 0)),
        (float(np.float32(0.9)), 9, True, None, ([], 0)),
    ],
)
def test_by_hand(
    confidence: float, limit: int, multi_label: bool, kept: list[bool] | None, expected: tuple[object, int]
) -> None:
    assert pairs(confidence, limit, multi_label, kept) == expected


def test_an_anchor_with_a_nan_does_not_count() -> None:
    scores = SCORES.copy()
    scores[0, 0] = np.nan
    for multi_label in (True, False):
        found, more = select_best(BOXES, scores, 0.4, 2, multi_label)
        assert (found.anchors.tolist(), more) == ([1, 3], 0)


def random_case(seed: int, num_anchors: int = 60, num_classes: int = 4) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    boxes = rng.random((2, num_anchors, 4)).astype(np.float32) * 100
    # Eighths: most scores are equal to others.
    return boxes, (rng.integers(0, 9, (2, num_anchors, num_classes)) / 8).astype(np.float32)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize("kept", [None, [True, False, False, True]])
def test_torch_gives_what_numpy_gives(multi_label: bool, limit: int, kept: list[bool] | None) -> None:
    boxes, scores = random_case(limit)
    scores[1, 3, 2] = np.nan
    found = batched_top_k(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        confidence=0.3,
        max_detections=limit,
        multi_label=multi_label,
        kept=None if kept is None else torch.tensor(kept),
    )
    assert found.detections.shape == (2, limit, 6)
    for image in range(2):
        expected, more = select_best(
            boxes[image], scores[image], 0.3, limit, multi_label, None if kept is None else np.array(kept)
        )
        count = int(found.counts[image])
        assert count == len(expected.scores)
        assert int(found.num_above[image]) == count + more
        rows = found.detections[image].numpy()
        assert np.array_equal(rows[:count, :4], expected.boxes_xyxy)
        assert np.array_equal(rows[:count, 4], expected.scores)
        assert rows[:count, 5].tolist() == expected.labels.tolist()
        assert not rows[count:].any()


def test_fewer_anchors_than_rows() -> None:
    boxes, scores = torch.rand(1, 2, 4), torch.tensor([[[0.5, 0.25], [0.75, 0.0]]])
    rows = best_rows(boxes, scores, 6, multi_label=True)[0]
    assert rows[:, 4].tolist() == [0.75, 0.5, 0.25, 0, 0, 0]
    assert rows[:3, 5].tolist() == [0, 0, 1]
    assert torch.equal(rows[:3, :4], boxes[0, [1, 0, 0]])
    assert not rows[4:].any()


@pytest.mark.parametrize(
    ("shapes", "limit", "message"),
    [
        (((1, 5, 4), (1, 6, 2)), 3, "boxes must be BxAx4 and scores BxAxC"),
        (((1, 5, 4), (1, 5, 2)), 0, "max_detections must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: tuple[tuple[int, ...], ...], limit: int, message: str) -> None:
    boxes, scores = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        batched_top_k(boxes, scores, confidence=0.1, max_detections=limit, multi_label=True)
    with pytest.raises(ValueError, match=message.replace("BxA", "A")):
        select_best(boxes[0].numpy(), scores[0].numpy(), 0.1, limit, True)
