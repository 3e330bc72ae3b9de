from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.ops.decode import decode
from detseg.runtime.postprocess.config import HeadMetadata
from detseg.runtime.postprocess.decode import anchor_points, decode_above, sigmoid
from detseg.runtime.postprocess.nms import select_detections

NUM_CLASSES = 5
STRIDES = (8, 16, 32)


def raw_levels(head: HeadMetadata, height: int, width: int, seed: int, spread: float = 3.0) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    channels = head.num_box_channels + NUM_CLASSES
    return [
        torch.from_numpy(random.normal(-1, spread, (1, channels, height // stride, width // stride)).astype(np.float32))
        for stride in STRIDES
    ]


def flat(levels: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([level.flatten(2) for level in levels], dim=2)[0].numpy()


def head_of(kind: str) -> HeadMetadata:
    return HeadMetadata(kind, STRIDES, 16 if kind == "dfl" else 4)


@pytest.mark.parametrize("kind", ["dfl", "yolox", "ltrb"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.001, 0.25, 0.5, 0.9, 1.0])
def test_nothing_above_the_confidence_is_lost(kind: str, multi_label: bool, confidence: float) -> None:
    head = head_of(kind)
    levels = raw_levels(head, 64, 96, seed=2)
    boxes, scores = decode_above(flat(levels), head, 64, 96, confidence)
    all_boxes, all_scores = (array[0].numpy() for array in decode(kind, levels, STRIDES, head.reg_max))
    settings = {
        "confidence": confidence,
        "iou": 0.5,
        "max_detections": 300,
        "multi_label": multi_label,
        "class_agnostic": False,
    }
    found = select_detections(boxes, scores, **settings)
    expected = select_detections(all_boxes, all_scores, **settings)
    assert len(found.scores) == len(expected.scores)
    assert np.array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, rtol=2e-6, atol=1e-4)
    if confidence == 0.9:
        assert 0 < len(boxes) < 100, "only some of 126 places are decoded"


def test_scores_on_the_threshold() -> None:
    """A logit of 0 gives exactly 0.5, which is not above 0.5; the place is decoded, and decided on its score."""
    raw = np.full((64 + NUM_CLASSES, 4), -9, np.float32)
    raw[64, 1], raw[65, 3] = 0.0, 1e-6
    boxes, scores = decode_above(raw, HeadMetadata("dfl", (8,), 16), 16, 16, 0.5)
    assert len(boxes) == 2
    assert [float(score) for score in scores.max(axis=1)] == pytest.approx([0.5, 0.5 + 2.5e-7], abs=5e-8)


def test_boxes_by_hand() -> None:
    """Of the four cells of a level of stride 8, the one at the lower left is centered at (4, 12)."""
    raw = np.zeros((4 * 4 + 1, 4), np.float32)
    raw[-1] = (-9, -9, 2, -9)
    raw[[0, 4 + 1, 8 + 2, 12 + 3], 2] = 60.0  # bins 0, 1, 2, 3 to left, top, right, bottom
    boxes, scores = decode_above(raw, HeadMetadata("dfl", (8,), 4), 16, 16, 0.5)
    assert boxes.tolist() == [[4, 12 - 8, 4 + 16, 12 + 24]]
    assert scores.tolist() == [[pytest.approx(0.880797)]]
    raw = np.zeros((6, 4), np.float32)
    raw[:, 2] = (0.5, 0.25, np.log(2), np.log(3), 50, 50)
    boxes, scores = decode_above(raw, HeadMetadata("yolox", (8,), 4), 16, 16, 0.6)
    # Center (0 + 0.5, 1 + 0.25) * 8, size (2, 3) * 8.
    np.testing.assert_allclose(boxes, [[4 - 8, 10 - 12, 4 + 8, 10 + 12]], rtol=1e-6)
    assert scores.tolist() == [[1.0]]


def test_not_a_number_is_no_reason_to_leave_a_place_out() -> None:
    raw = np.full((4 * 4 + 2, 4), -9, np.float32)
    raw[-2:, 1] = (np.nan, 5.0)
    boxes, scores = decode_above(raw, HeadMetadata("dfl", (8,), 4), 16, 16, 0.5)
    assert len(boxes) == 1
    assert np.isnan(scores[0, 0])
    assert scores[0, 1] > 0.99


@pytest.mark.parametrize("shape", [(64 + NUM_CLASSES, 83), (64, 84), (1, 64 + NUM_CLASSES, 84)])
def test_maps_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="more than 64 channels and 84 places for an input of 64x64"):
        decode_above(np.zeros(shape, np.float32), head_of("dfl"), 64, 64, 0.5)


def test_anchor_points() -> None:
    points, strides = anchor_points(16, 24, (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert strides.tolist() == [8] * 6 + [16] * 2


def test_sigmoid_at_the_ends() -> None:
    assert sigmoid(np.array([-200, 0, 200], np.float32)).tolist() == [0, 0.5, 1]
