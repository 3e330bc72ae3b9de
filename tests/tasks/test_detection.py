"""Samples to a batch, raw maps to a loss and to boxes in original pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.models.detector import DetectorConfig
from detseg.runtime.geometry import InputSpec, letterbox
from detseg.structures import Detections, Placement, Sample
from detseg.tasks.detection import DetectionTask, DetectionTaskConfig, PostprocessConfig
from detseg.tasks.package import PackageConfig

NAMES = ("cat", "dog")


def make_task(**settings: object) -> DetectionTask:
    config = DetectionTaskConfig(**{"input": InputSpec(64, 64), **settings})
    _, task = PackageConfig(DetectorConfig(), config, NAMES).build()
    assert isinstance(task, DetectionTask)
    return task


def make_sample(boxes: list[list[float]], labels: list[int], crowd: list[bool], value: int = 7) -> Sample:
    return Sample(
        image=np.full((64, 64, 3), (value, 20, 30), np.uint8),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, np.bool_),
        image_id=value,
        path=f"{value}.png",
        placement=Placement.identity(64, 64),
    )


def test_a_batch_is_padded_and_has_no_crowds() -> None:
    first = make_sample([[0, 0, 8, 8], [1, 2, 3, 4], [5, 6, 7, 8]], [1, 0, 1], [True, False, False], 7)
    batch = make_task().collate([first, make_sample([], [], [], 9)])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, :, 5, 5].tolist() == [[7, 20, 30], [9, 20, 30]]
    assert batch.targets["boxes_xyxy"].tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    assert batch.targets["labels"].tolist() == [[0, 1], [-1, -1]]
    assert batch.image_ids == (7, 9)
    assert batch.paths == ("7.png", "9.png")


def test_pixels_become_what_the_model_was_made_for() -> None:
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    assert make_task().normalize(images).flatten().tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])
    spec = InputSpec(64, 64, channel_order="bgr", mean=(10.0, 0.0, 2.0), std=(2.0, 1.0, 4.0))
    assert make_task(input=spec).normalize(images).flatten().tolist() == [(30 - 10) / 2, 20, (10 - 2) / 4]


def raw_with_one_box(task: DetectionTask, cell: tuple[int, int], bins: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """Maps of a 64x64 input that say: one dog at a cell of the finest level, sides in whole strides of 8."""
    raw = [torch.full((1, 64 + 2, 64 // stride, 64 // stride), -20.0) for stride in task.strides]
    for side, distance in enumerate(bins):
        raw[0][0, side * 16 + distance, cell[0], cell[1]] = 20.0
    raw[0][0, 64 + 1, cell[0], cell[1]] = 20.0
    return raw


def test_raw_maps_become_boxes_in_original_pixels() -> None:
    task = make_task()
    # The cell in row 3, column 4 has its center at (36, 28); one stride left and up, two right and down.
    raw = raw_with_one_box(task, (3, 4), (1, 1, 2, 2))
    # 128 wide and 64 high: halved, 16 pixels of padding above.
    _, placement = letterbox(np.zeros((64, 128, 3), np.uint8), task.spec)
    (found,) = task.postprocess(raw, [placement])
    assert isinstance(found, Detections)
    assert found.labels.tolist() == [1]
    assert found.scores[0] > 0.999
    expected = [(36 - 8) * 2, (28 - 8 - 16) * 2, (36 + 16) * 2, (28 + 16 - 16) * 2]
    assert found.boxes_xyxy[0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PostprocessConfig(), 2),
        (PostprocessConfig(iou=0.5), 1),
        (PostprocessConfig(confidence=0.6), 1),
        (PostprocessConfig(max_detections=1), 1),
    ],
)
def test_the_settings_of_postprocessing_count(settings: PostprocessConfig, expected: int) -> None:
    # Boxes of 32x32, 8 pixels apart: their IoU is 24 / 40. The second has the score 0.5.
    task = make_task(postprocess=settings)
    first, second = (raw_with_one_box(task, cell, (2, 2, 2, 2)) for cell in ((3, 4), (3, 5)))
    second[0][0, 64 + 1, 3, 5] = 0.0
    both = [torch.maximum(one, other) for one, other in zip(first, second, strict=True)]
    assert len(task.postprocess(both, [Placement.identity(64, 64)])[0]) == expected


def test_the_loss_of_a_perfect_answer_is_near_zero() -> None:
    task = make_task()
    batch = task.collate([make_sample([[20, 12, 52, 44]], [1], [False])])
    good = task.loss(raw_with_one_box(task, (3, 4), (2, 2, 2, 2)), batch)
    bad = task.loss(raw_with_one_box(task, (6, 6), (1, 1, 1, 1)), batch)
    assert float(good.parts["box"]) < 0.01 < float(bad.parts["box"])
    assert float(good.total()) < float(bad.total())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.5}, "confidence must lie between 0 and 1, got 1.5"),
        ({"iou": -0.1}, "iou must lie between 0 and 1, got -0.1"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostprocessConfig(**settings)
