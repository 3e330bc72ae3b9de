from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detseg.losses.detection import SimOTALossConfig, TALLossConfig
from detseg.losses.dual import DualLossConfig
from detseg.models.detector import Detector, DetectorConfig
from detseg.models.heads.dfl_masks import DFLMasksHeadConfig
from detseg.models.heads.e2e import E2EHeadConfig
from detseg.models.heads.yolox import YOLOXHeadConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import LetterboxTransform, Sample
from detseg.tasks.detection import DetectionCriterion, DetectionTask, DetectionTaskConfig

CLASSES = ("cat", "dog")
STRIDES = (8, 16, 32)
DFL, DIRECT = DetectorConfig(), DetectorConfig(head=YOLOXHeadConfig())


def make_task(
    postprocess: PostprocessConfig | None = None, model: DetectorConfig = DFL, **settings: Any
) -> DetectionTask:
    settings = {"input": InputSpec(64, 64), **settings}
    loss = SimOTALossConfig() if isinstance(model.head, YOLOXHeadConfig) else TALLossConfig()
    config = DetectionTaskConfig(loss=loss, postprocess=postprocess or PostprocessConfig(), **settings)
    with torch.device("meta"):
        detector: Detector = model.build(len(CLASSES))
    return config.build(detector, CLASSES)


def make_criterion(model: DetectorConfig = DFL) -> DetectionCriterion:
    task = make_task(model=model)
    with torch.device("meta"):
        return task.config.build_criterion(model.build(len(CLASSES)), task)


def make_sample(number: int, boxes: list[list[float]], labels: list[int], crowd: list[bool]) -> Sample:
    return Sample(
        image=np.full((4, 6, 3), (number, 20, 30), np.uint8),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, np.bool_),
        image_id=100 + number,
        path=f"{number}.png",
        transform=LetterboxTransform(0.5, 0.5, float(number), 0.0, 8, 12),
    )


def test_collate_pads_and_leaves_crowds_out() -> None:
    samples = [
        make_sample(1, [[0, 0, 1, 1], [1, 1, 5, 3], [2, 0, 3, 4]], [1, 0, 1], [False, True, False]),
        make_sample(2, [], [], []),
        make_sample(3, [[0, 1, 2, 3]], [0], [False]),
    ]
    batch = make_criterion().collate(samples)
    assert batch.images.shape == (3, 3, 4, 6)
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, :, 3, 5].tolist() == [[1, 20, 30], [2, 20, 30], [3, 20, 30]]
    assert batch.targets["labels"].tolist() == [[1, 1], [-1, -1], [0, -1]]
    none = [0, 0, 0, 0]
    assert batch.targets["boxes_xyxy"].tolist() == [[[0, 0, 1, 1], [2, 0, 3, 4]], [none, none], [[0, 1, 2, 3], none]]
    assert (batch.targets["boxes_xyxy"].dtype, batch.targets["labels"].dtype) == (torch.float32, torch.int64)
    assert batch.image_ids == (101, 102, 103)
    assert batch.paths == ("1.png", "2.png", "3.png")
    assert [transform.offset_x for transform in batch.transforms] == [1.0, 2.0, 3.0]


def test_collate_without_any_objects() -> None:
    batch = make_criterion().collate([make_sample(1, [], [], []), make_sample(2, [[0, 0, 1, 1]], [0], [True])])
    assert batch.targets["boxes_xyxy"].shape == (2, 0, 4)
    assert batch.targets["labels"].shape == (2, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [51 / 255, 102 / 255, 204 / 255]),
        ({"std": (1.0, 1.0, 1.0)}, [51.0, 102.0, 204.0]),
        ({"channel_order": "bgr", "std": (1.0, 1.0, 1.0)}, [204.0, 102.0, 51.0]),
        # Mean and std are in the channel order of the model: (204 - 4) / 2, (102 - 2) / 4, (51 - 1) / 10
        ({"channel_order": "bgr", "mean": (4.0, 2.0, 1.0), "std": (2.0, 4.0, 10.0)}, [100.0, 25.0, 5.0]),
    ],
)
def test_normalize_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    images = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 2, 5)
    values = make_task(input=InputSpec(64, 64, **settings)).normalize(images)
    assert values.dtype == torch.float32
    assert values.shape == (2, 3, 2, 5)
    torch.testing.assert_close(values, torch.tensor(expected).view(1, 3, 1, 1).expand(2, 3, 2, 5))


def empty_maps(num_channels: int, num_box_channels: int, batch_size: int = 1) -> list[Tensor]:
    """Raw maps of a 64 x 64 input in which nothing is found: all class logits are -20."""
    maps = [torch.zeros(batch_size, num_channels, 64 // stride, 64 // stride) for stride in STRIDES]
    for level in maps:
        level[:, num_box_channels:] = -20
    return maps


def put(maps: list[Tensor], image: int, cell: tuple[int, int, int], ltrb: list[int], logits: list[float]) -> None:
    """A distributional box: all weight on one bin per side. ``cell``: level, row, column."""
    level, row, column = cell
    for side, number in enumerate(ltrb):
        maps[level][image, 16 * side + number, row, column] = 100
    maps[level][image, 64:, row, column] = torch.tensor(logits)


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


# The input is a 128 x 96 (width x height) image, halved, with 8 pixels of padding above.
HALVED = LetterboxTransform(0.5, 0.5, 0.0, 8.0, 96, 128)
SAME = LetterboxTransform.identity(64, 64)


def test_postprocess_of_a_distributional_head_by_hand() -> None:
    maps = empty_maps(66, 64, batch_size=2)
    # Stride 8, row 2, column 3: center (28, 20); 2, 1, 1, 2 cells of 8 to its sides: (12, 12, 36, 36).
    put(maps, 0, (0, 2, 3), [2, 1, 1, 2], [logit(0.75), -20])
    # Stride 32, row 1, column 0: center (16, 48); all of the left and bottom lies outside: (-16, 16, 48, 80).
    put(maps, 1, (2, 1, 0), [1, 1, 1, 1], [-20, logit(0.5)])
    task = make_task()
    first, second = task.results(task.detect(maps), [HALVED, SAME])
    # x: times 2. y: minus 8, times 2.
    np.testing.assert_allclose(first.boxes_xyxy, [[24, 8, 72, 56]], atol=1e-4)
    np.testing.assert_allclose(first.scores, [0.75], atol=1e-6)
    assert first.labels.tolist() == [0]
    np.testing.assert_allclose(second.boxes_xyxy, [[0, 16, 48, 64]], atol=1e-4)
    assert second.labels.tolist() == [1]


def test_postprocess_of_a_direct_head_by_hand() -> None:
    maps = empty_maps(7, 4)
    # Stride 16, row 1, column 2, raw (0.5, 0.25): center (40, 20); sides 16 e^ln 2 and 16 e^0: (24, 12, 56, 28).
    maps[1][0, :, 1, 2] = torch.tensor([0.5, 0.25, float(np.log(2)), 0.0, logit(0.5), logit(0.2), logit(0.8)])
    settings = PostprocessConfig(multi_label=False)
    task = make_task(settings, DIRECT)
    (found,) = task.results(task.detect(maps), [SAME])
    np.testing.assert_allclose(found.boxes_xyxy, [[24, 12, 56, 28]], atol=1e-4)
    # objectness times the better class
    np.testing.assert_allclose(found.scores, [0.4], atol=1e-6)
    assert found.labels.tolist() == [1]


def overlapping() -> list[Tensor]:
    """Two boxes of 16 x 16 that share half of each (IoU 1/3), and one of both classes that touches neither."""
    maps = empty_maps(66, 64)
    put(maps, 0, (0, 1, 1), [1, 1, 1, 1], [logit(0.9), -20])
    put(maps, 0, (0, 1, 2), [1, 1, 1, 1], [logit(0.8), -20])
    put(maps, 0, (0, 5, 5), [1, 1, 1, 1], [logit(0.6), logit(0.7)])
    return maps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(0.9, 0), (0.8, 0), (0.7, 1), (0.6, 0)]),
        ({"iou": 0.3}, [(0.9, 0), (0.7, 1), (0.6, 0)]),
        ({"iou": 0.35}, [(0.9, 0), (0.8, 0), (0.7, 1), (0.6, 0)]),
        ({"confidence": 0.65}, [(0.9, 0), (0.8, 0), (0.7, 1)]),
        ({"max_detections": 2}, [(0.9, 0), (0.8, 0)]),
        ({"multi_label": False}, [(0.9, 0), (0.8, 0), (0.7, 1)]),
        ({"class_agnostic": True}, [(0.9, 0), (0.8, 0), (0.7, 1)]),
        ({"confidence": 0.95}, []),
    ],
)
def test_every_setting_of_postprocessing_counts(settings: dict[str, Any], expected: list[tuple[float, int]]) -> None:
    task = make_task(PostprocessConfig(**settings))
    (found,) = task.results(task.detect(overlapping()), [SAME])
    pairs = list(zip(np.round(found.scores.astype(float), 4).tolist(), found.labels.tolist(), strict=True))
    assert pairs == expected
    assert found.boxes_xyxy.shape == (len(expected), 4)


@pytest.mark.parametrize("model", [DFL, DIRECT], ids=["dfl", "yolox"])
def test_the_loss_sees_the_targets(model: DetectorConfig) -> None:
    criterion = make_criterion(model)
    torch.manual_seed(0)
    num_channels = 66 if model is DFL else 7
    raw = [torch.randn(2, num_channels, 64 // stride, 64 // stride) for stride in STRIDES]
    big = Sample(
        image=np.zeros((64, 64, 3), np.uint8),
        boxes_xyxy=np.array([[8, 8, 40, 40]], np.float32),
        labels=np.array([1]),
        crowd=np.array([False]),
        image_id=1,
        path="a",
        transform=SAME,
    )
    crowd = Sample(big.image, big.boxes_xyxy, big.labels, np.array([True]), 2, "b", SAME)
    loss = criterion(raw, criterion.collate([big, crowd]))
    only = criterion([level[:1] for level in raw], criterion.collate([big]))
    none = criterion([level[1:] for level in raw], criterion.collate([crowd]))
    # Sums over the batch; a crowd is no target.
    assert float(none.normalizer) == 0 < float(only.normalizer)
    for name, part in loss.parts.items():
        assert part.item() == pytest.approx(only.parts[name].item() + none.parts[name].item(), rel=1e-5), name
    background = "cls" if model is DFL else "obj"
    assert all((part.item() == 0) == (name != background) for name, part in none.parts.items())
    assert all(part.item() > 0 for part in only.parts.values())


def test_the_evaluator_is_for_the_classes_of_the_data() -> None:
    evaluator = make_task().evaluator(("bird", "cat"), (3, 17))
    assert evaluator.class_names == ("bird", "cat")
    assert evaluator.category_ids == (3, 17)


def test_what_counts_is_chosen_by_name() -> None:
    assert make_task().evaluator(("bird",), (3,), "pycocotools").facts()["evaluator"].startswith("pycocotools ")
    with pytest.raises(ValueError, match="unknown evaluator 'coco'; allowed are hotcoco"):
        make_task().evaluator(("bird",), (3,), "coco")


def test_category_ids_count_from_one_where_there_are_none() -> None:
    assert make_task().category_ids == (1, 2)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (DIRECT, DetectionTaskConfig(), "task.loss is 'tal', which is for a 'dfl' head; the model's head is 'yolox'"),
        (
            DFL,
            DetectionTaskConfig(loss=SimOTALossConfig()),
            "task.loss is 'simota', which is for a 'yolox' head; the model's head is 'dfl'",
        ),
        (
            DFL,
            DetectionTaskConfig(input=InputSpec(64, 80)),
            "task.input is 64x80; height and width must be multiples of the model's largest stride, 32",
        ),
        (
            DetectorConfig(head=DFLMasksHeadConfig()),
            DetectionTaskConfig(),
            "the model's head is dfl_masks, which gives masks as well: choose the head dfl, or the task instance",
        ),
        (
            DetectorConfig(head=E2EHeadConfig()),
            DetectionTaskConfig(),
            "task.loss is 'tal', which is for a 'dfl' head; the model's head is 'e2e'",
        ),
        (
            DetectorConfig(head=E2EHeadConfig()),
            DetectionTaskConfig(loss=DualLossConfig(), postprocess=PostprocessConfig(iou=0.5)),
            "iou 0.5: the head is one-to-one, so there is no NMS and this changes nothing; leave it out",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(model: DetectorConfig, config: DetectionTaskConfig, message: str) -> None:
    with torch.device("meta"):
        detector = model.build(2)
    with pytest.raises(ValueError, match=re.escape(message)):
        config.build_criterion(detector, config.build(detector, CLASSES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.5}, "confidence must lie between 0 and 1, got 1.5"),
        ({"iou": -0.1}, "iou must lie between 0 and 1, got -0.1"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostprocessConfig(**settings)
