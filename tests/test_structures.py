"""The values that rooms hand to each other refuse what they cannot stand for."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from detseg.run_lengths import MaskStack, RunLengths
from detseg.structures import Detections, GroundTruth, Instances, LetterboxTransform, Metrics, Sample


def boxes(*rows: tuple[float, float, float, float], dtype: type[np.generic] = np.float32) -> Any:
    return np.array(rows, dtype).reshape(-1, 4)


def sample(**changes: Any) -> Sample:
    values: dict[str, Any] = {
        "image": np.zeros((6, 8, 3), np.uint8),
        "boxes_xyxy": boxes((1, 1, 3, 4), (0, 0, 8, 6)),
        "labels": np.array([0, 2]),
        "crowd": np.array([False, True]),
        "image_id": 7,
        "path": "images/7.jpg",
        "transform": LetterboxTransform.identity(6, 8),
    }
    return Sample(**values | changes)


def masks(count: int, height: int, width: int) -> tuple[RunLengths, ...]:
    return (RunLengths.from_mask(np.ones((height, width), bool)),) * count


def ground_truth(**changes: Any) -> GroundTruth:
    values: dict[str, Any] = {
        "image_id": 7,
        "height": 6,
        "width": 8,
        "boxes_xywh": boxes((1, 1, 2, 3), dtype=np.float64),
        "labels": np.array([0]),
        "crowd": np.array([False]),
        "areas": np.array([6.0]),
    }
    return GroundTruth(**values | changes)


def detections(**changes: Any) -> Detections:
    values: dict[str, Any] = {
        "boxes_xyxy": boxes((1, 1, 3, 4), (0, 0, 8, 6), (2, 2, 5, 5)),
        "scores": np.array([0.9, 0.8, 0.3], np.float32),
        "labels": np.array([0, 2, 1]),
    }
    return Detections(**values | changes)


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (sample, {"image": np.zeros((6, 8, 3), np.float32)}, "image must be uint8, got float32"),
        (sample, {"image": np.zeros((6, 8), np.uint8)}, "image must have shape NxNx3, got (6, 8)"),
        (sample, {"image": np.zeros((3, 6, 8), np.uint8)}, "image must have shape NxNx3, got (3, 6, 8)"),
        (sample, {"image": [[0]]}, "image must be a numpy array, got list"),
        (sample, {"boxes_xyxy": np.zeros((2, 5), np.float32)}, "boxes_xyxy must have shape Nx4, got (2, 5)"),
        (sample, {"boxes_xyxy": np.zeros((2, 4))}, "boxes_xyxy must be float32, got float64"),
        (sample, {"boxes_xyxy": boxes()}, "labels must have shape 0, got (2,)"),
        (sample, {"labels": np.array([0])}, "labels must have shape 2, got (1,)"),
        (sample, {"labels": np.array([0.0, 1.0])}, "labels must be int64, got float64"),
        (sample, {"crowd": np.array([0, 1])}, "crowd must be bool, got int64"),
        (sample, {"mask": np.zeros((8, 6), np.uint8)}, "mask must have shape 6x8, got (8, 6)"),
        (sample, {"mask": np.zeros((6, 8), np.int64)}, "mask must be uint8, got int64"),
        (sample, {"object_masks": np.zeros((1, 6, 8), bool)}, "object_masks must have shape 2x6x8, got (1, 6, 8)"),
        (sample, {"object_masks": MaskStack(masks(1, 6, 8), 6, 8)}, "object_masks must be (2, 6, 8), got (1, 6, 8)"),
        (sample, {"object_masks": np.zeros((2, 6, 8), np.uint8)}, "object_masks must be bool, got uint8"),
        (ground_truth, {"boxes_xywh": boxes((1, 1, 2, 3))}, "boxes_xywh must be float64, got float32"),
        (ground_truth, {"areas": np.array([6.0, 1.0])}, "areas must have shape 1, got (2,)"),
        (ground_truth, {"crowd": np.array([0])}, "crowd must be bool, got int64"),
        (ground_truth, {"labels": np.array([0], np.int32)}, "labels must be int64, got int32"),
        (ground_truth, {"masks": ()}, "there must be one mask for each of 1 objects, got 0"),
        (
            ground_truth,
            {"masks": masks(1, 8, 6)},
            "masks must be as large as their image and each other, got [(6, 8), (8, 6)]",
        ),
        (detections, {"scores": np.array([0.9], np.float32)}, "scores must have shape 3, got (1,)"),
        (detections, {"scores": np.array([0.9, 0.8, np.nan], np.float32)}, "scores holds a value that is not finite"),
        (detections, {"boxes_xyxy": boxes(*[(0, 0, np.inf, 1)] * 3)}, "boxes_xyxy holds a value that is not finite"),
        (detections, {"labels": np.zeros((3, 1), np.int64)}, "labels must have shape 3, got (3, 1)"),
        (detections, {"track_ids": np.array([1, 2])}, "track_ids must have shape 3, got (2,)"),
        (detections, {"track_ids": np.ones(3)}, "track_ids must be int64, got float64"),
        (detections, {"track_ids": np.array([4, -1, 2])}, "track_ids holds a number below 0"),
    ],
)
def test_wrong_arrays_are_refused(make: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make(**changes)


def test_right_arrays_are_kept() -> None:
    mask = np.ones((6, 8), np.uint8)
    assert sample(mask=mask).mask is mask
    assert sample().mask is None
    object_masks = np.ones((2, 6, 8), np.bool_)
    assert sample(object_masks=object_masks).object_masks is object_masks
    no_boxes = {"boxes_xyxy": boxes(), "labels": np.zeros(0, np.int64), "crowd": np.zeros(0, np.bool_)}
    assert len(sample(**no_boxes).boxes_xyxy) == 0
    assert ground_truth().areas.tolist() == [6.0]


def test_fields_cannot_be_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        detections().scores = np.zeros(3, np.float32)  # type: ignore[misc]


# A 100 x 200 (height x width) image, scaled by 0.5 and 0.25, in the middle of a larger input.
PLACEMENT = LetterboxTransform(
    scale_x=0.5, scale_y=0.25, offset_x=10, offset_y=20, original_height=100, original_width=200
)  # fmt: skip


@pytest.mark.parametrize(
    ("original", "in_input"),
    [
        ((0, 0, 200, 100), (10, 20, 110, 45)),
        ((20, 40, 60, 80), (20, 30, 40, 40)),
        ((-20, 0, 240, 120), (0, 20, 130, 50)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transform(original: Any, in_input: Any, dtype: Any) -> None:
    there = PLACEMENT.to_input(boxes(original, dtype=dtype))
    assert there.dtype == dtype
    assert there.tolist() == [list(in_input)]
    back = PLACEMENT.to_original(there)
    assert back.dtype == dtype
    assert back.tolist() == [list(np.clip(original, 0, [200, 100, 200, 100]))]


def test_identity_transform() -> None:
    inside = boxes((0, 0, 8, 6), (1.25, 2, 3, 4))
    assert np.array_equal(LetterboxTransform.identity(6, 8).to_input(inside), inside)
    assert np.array_equal(LetterboxTransform.identity(6, 8).to_original(inside), inside)
    assert PLACEMENT.to_original(boxes()).shape == (0, 4)


@pytest.mark.parametrize("values", [(0, 1, 0, 0, 1, 1), (1, -1, 0, 0, 1, 1), (1, 1, 0, 0, 0, 1), (1, 1, 0, 0, 1, 0)])
def test_impossible_transforms(values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        LetterboxTransform(*values)


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (np.array([2, 0]), [1, 0]),
        (np.array([True, False, True]), [0, 1]),
        (np.zeros(0, np.int64), []),
    ],
)
def test_selected_detections(index: Any, labels: list[int]) -> None:
    selected = detections().select(index)
    assert selected.labels.tolist() == labels
    assert len(selected) == len(selected.boxes_xyxy) == len(labels)
    full = detections()
    assert np.array_equal(selected.scores, full.scores[index])
    assert np.array_equal(selected.boxes_xyxy, full.boxes_xyxy[index])
    assert selected.track_ids is None
    track_ids = np.array([7, 1, 3])
    selected = detections(track_ids=track_ids).select(index)
    assert selected.track_ids is not None
    assert selected.track_ids.tolist() == track_ids[index].tolist()


@pytest.mark.parametrize("index", [np.array([2, 0]), np.array([True, False, True]), np.zeros(0, np.int64)])
def test_selected_instances_keep_their_masks(index: Any) -> None:
    found = detections(track_ids=np.array([7, 1, 3]))
    runs = tuple(RunLengths.from_mask(mask) for mask in np.eye(3, dtype=bool)[:, None])
    selected = Instances(found.boxes_xyxy, found.scores, found.labels, found.track_ids, runs).select(index)
    expected = found.select(index)
    assert selected.masks == tuple(runs[row] for row in np.arange(3)[index])
    assert (selected.labels.tolist(), len(selected)) == (expected.labels.tolist(), len(expected))
    assert selected.track_ids is not None
    assert expected.track_ids is not None
    assert selected.track_ids.tolist() == expected.track_ids.tolist()


def test_instances_have_a_mask_each() -> None:
    found = detections()
    values = found.boxes_xyxy, found.scores, found.labels, None
    with pytest.raises(ValueError, match="one mask for each of 3 objects, got 2"):
        Instances(*values, masks(2, 6, 8))
    with pytest.raises(ValueError, match="as large as their image and each other"):
        Instances(*values, masks(1, 6, 8) + masks(2, 8, 6))
    empty = Instances.empty()
    assert (len(empty), empty.masks) == (0, ())
    assert isinstance(empty, Instances)


def test_no_detections() -> None:
    assert len(Detections.empty()) == 0
    assert Detections.empty().boxes_xyxy.shape == (0, 4)


def test_metrics_are_a_mapping_in_order() -> None:
    metrics = Metrics({"AP50": 0.75, "AP": 0.5})
    assert list(metrics.items()) == [("AP50", 0.75), ("AP", 0.5)]
    assert metrics[metrics.primary] == 0.5
    assert len(metrics) == 2
    assert "AP75" not in metrics
    with pytest.raises(KeyError):
        metrics["AP75"]


@pytest.mark.parametrize("values", [{}, {"AP50": 0.75}])
def test_metrics_hold_their_primary(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="primary metric 'AP' is not among"):
        Metrics(values)
