from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detseg.config import from_dict
from detseg.losses.instances import unpack_shares
from detseg.models.base import MaskMaps
from detseg.models.detector import Detector, DetectorConfig
from detseg.models.heads.dfl_masks import DFLMasksHeadConfig
from detseg.runtime.inputs.geometry import InputSpec, transform_of
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Instances, LetterboxTransform, Sample
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.instance import InstanceTask, InstanceTaskConfig, shares_of

CLASSES = ("cat", "dog")
NUM_STEPS, LEARNING_RATE = 120, 4e-3
SMALL = {"name": "csp_darknet", "block": "c2f", "depth": 0.01, "width": 0.0625}
MODEL: DetectorConfig = from_dict(
    DetectorConfig,
    {
        "backbone": SMALL,
        "neck": {"name": "pan", "block": "c2f", "depth": 0.01},
        "head": {"name": "dfl_masks", "prototypes": 4, "reg_max": 8},
    },
    "test",
)


def make(postprocess: PostprocessConfig | None = None, side: int = 64) -> tuple[Detector, InstanceTask]:
    torch.manual_seed(0)
    model = MODEL.build(len(CLASSES))
    config = InstanceTaskConfig(input=InputSpec(side, side), postprocess=postprocess or PostprocessConfig())
    return model, config.build(model, CLASSES)


def sample(boxes: Any, masks: Any, crowd: Any = None, side: int = 64) -> Sample:
    boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes_xyxy)
    return Sample(
        np.zeros((side, side, 3), np.uint8),
        boxes_xyxy,
        np.arange(count) % 2,
        np.zeros(count, bool) if crowd is None else np.array(crowd),
        1,
        "a.png",
        LetterboxTransform.identity(side, side),
        object_masks=masks,
    )


def rectangles(boxes: list[tuple[int, int, int, int]], side: int = 64) -> Any:
    masks = np.zeros((len(boxes), side, side), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_shares_of_cells() -> None:
    masks = rectangles([(0, 0, 6, 4), (0, 0, 5, 8), (8, 9, 9, 10), (0, 0, 0, 0)], side=16)
    shares = shares_of(masks, 4)
    assert shares[0, 0].tolist() == [1, 0.5, 0, 0]
    assert shares[1, :2].tolist() == [[1, 0.25, 0, 0]] * 2
    assert np.argwhere(shares[2] == 1).tolist() == [[2, 2]]  # of one pixel only, which would vanish
    assert [float(one.sum()) for one in shares] == [1.5, 2.5, 1, 0]


def test_collate_packs_the_shares_of_what_is_to_be_learned() -> None:
    model, task = make()
    criterion = task.config.build_criterion(model, task)
    boxes = [(0, 0, 32, 32), (8, 8, 24, 40), (40, 40, 64, 64)]
    masks = rectangles(boxes)
    batch = criterion.collate([sample(boxes, masks, [False, True, False]), sample(boxes[:1], masks[:1])])
    assert (batch.targets["masks"].shape, batch.targets["labels"].tolist()) == ((2, 2, 16, 8), [[0, 0], [0, -1]])
    shares = unpack_shares(batch.targets["masks"], 16).numpy()
    assert np.array_equal(shares[0], shares_of(masks[[0, 2]], 4))
    assert np.array_equal(shares[1, 0], shares[0, 0])
    assert not shares[1, 1].any()


def test_collate_of_images_without_objects() -> None:
    model, task = make()
    criterion = task.config.build_criterion(model, task)
    batch = criterion.collate([sample([], np.zeros((0, 64, 64), bool))] * 2)
    assert batch.targets["masks"].shape == (2, 0, 16, 8)
    assert criterion(model(task.normalize(batch.images)), batch).parts["mask"].item() == 0


def test_images_without_masks_are_refused() -> None:
    model, task = make()
    with pytest.raises(ValueError, match=r"a\.png: has no masks of objects; instance segmentation needs one for each"):
        task.config.build_criterion(model, task).collate([sample([(0, 0, 8, 8)], None)])


def test_objects_are_found_with_the_masks_of_their_own_places() -> None:
    """Two classes at two points of the finest level, whose coefficients choose prototypes of their own."""
    _, task = make(PostprocessConfig(confidence=0.5))
    levels = [torch.zeros(1, 4 * 8 + 2 + 4, 64 // stride, 64 // stride) for stride in (8, 16, 32)]
    for level in levels:
        level[:, 32:34] = -9
    # Distances of 1 stride to every side: the bin of 1 is certain.
    for row, column, label, prototype in ((2, 2, 0, 1), (5, 6, 1, 3)):
        levels[0][0, [1, 9, 17, 25], row, column] = 99
        levels[0][0, 32 + label, row, column] = 4.0 - label
        levels[0][0, 34 + prototype, row, column] = 1
    prototypes = torch.full((1, 4, 16, 16), -1.0)
    prototypes[0, 1] = 1
    prototypes[0, 3, :, 12:] = 1

    class Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> MaskMaps:
            return MaskMaps(levels, prototypes)

    transform = transform_of(128, 128, InputSpec(64, 64))
    (found,) = task.results(task.infer(Fixed(), torch.zeros(1, 3, 64, 64)), [transform])
    assert isinstance(found, Instances)
    assert found.labels.tolist() == [0, 1]
    assert found.boxes_xyxy.round().tolist() == [[24, 24, 56, 56], [88, 72, 120, 104]]
    assert [(mask.height, mask.width) for mask in found.masks] == [(128, 128)] * 2
    assert found.masks[0].box_xywh.tolist() == [24, 24, 32, 32]
    assert found.masks[0].area == 32 * 32
    # From -1 to 1 between the cells 11 and 12, so from 0 on at pixel 8 * 12 of the original.
    assert found.masks[1].box_xywh.tolist() == [96, 72, 24, 32]


def test_the_network_is_used_as_the_runtime_uses_its_outputs() -> None:
    """Torch, and the same outputs through the pipeline without torch, in each form that needs no graph."""
    from detseg.runtime.kinds.instances import InstanceMetadata, InstancePipeline

    model, task = make(PostprocessConfig(confidence=0.005, iou=0.5, max_detections=20))
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    model.train()
    for _ in range(10):
        model(images)
    model.eval()
    with torch.no_grad():
        for branch in model.head.class_branches:
            branch[-1].weight.mul_(20)
            branch[-1].bias.fill_(-1.0)
        for branch in model.head.coefficient_branches:
            branch[-1].bias.normal_()
        model.head.prototypes.conv3.bn.weight.normal_()
    transforms = [transform_of(*size, task.spec) for size in ((50, 90), (128, 30))]
    with torch.inference_mode():
        expected = task.results(task.infer(model, images), transforms)
    assert all(len(one) == 20 for one in expected)
    assert sum(mask.area for one in expected for mask in one.masks) > 1000
    kept = np.array([False, True])
    with torch.inference_mode():
        expected_kept = task.only(torch.from_numpy(kept))
        some = expected_kept.results(expected_kept.infer(model, images), transforms)
    for form in ("raw", "decoded"):
        graph = task.export_graph(model, form)
        with torch.inference_mode():
            outputs = graph.module(images)
        network = Network({name: one.numpy() for name, one in zip(graph.output_names, outputs, strict=True)})
        metadata = from_dict(
            InstanceMetadata,
            {
                "version": "1", "task": "instance", "form": form, "class_names": list(CLASSES), "category_ids": [1, 2],
                "input": {"height": 64, "width": 64}, "stride": 32, "postprocess": vars(task.config.postprocess),
                **task.metadata(),
            },
            "test",
        )  # fmt: skip
        pipeline = metadata.pipeline(network)
        assert isinstance(pipeline, InstancePipeline)
        assert_same(pipeline.results(images.numpy(), transforms), expected)
        assert_same(pipeline.only(kept).results(images.numpy(), transforms), some)
        broken = replace(metadata, prototypes=replace(metadata.prototypes, stride=8)).pipeline(network)
        with pytest.raises(ValueError, match=r"gives prototypes \(4, 16, 16\), expected are \(4, 8, 8\)"):
            broken.results(images.numpy(), transforms)
    cut = {name: one[:, :, :3] if name == "coefficients" else one for name, one in network.run(None).items()}
    with pytest.raises(ValueError, match=r"network: gives coefficients \(84, 3\), expected are \(84, 4\)"):
        metadata.pipeline(Network(cut)).results(images.numpy(), transforms)


class Network:
    """Gives the same outputs whatever it sees."""

    path = "network"
    has_free_sides = True

    def __init__(self, outputs: dict[str, Any]) -> None:
        self._outputs = outputs

    def run(self, inputs: Any) -> dict[str, Any]:
        return self._outputs

    def require_shape(self, shape: Any) -> None:
        assert shape == (3, 64, 64)


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        for mask, true in zip(one.masks, other.masks, strict=True):
            assert mask.area + true.area - 2 * mask.intersection(true) <= 0.001 * true.area


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (
            DetectorConfig(),
            InstanceTaskConfig(),
            "gives masks, and the model's head is dfl: choose the head dfl_masks, or the task detection",
        ),
        (
            DetectorConfig(head=DFLMasksHeadConfig()),
            InstanceTaskConfig(input=InputSpec(64, 80)),
            "task.input is 64x80; height and width must be multiples of the model's largest stride, 32",
        ),
        (
            DetectorConfig(head=DFLMasksHeadConfig()),
            DetectionTaskConfig(),
            "choose the head dfl, or the task instance",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(model: Any, config: Any, message: str) -> None:
    with torch.device("meta"):
        detector = model.build(2)
    with pytest.raises(ValueError, match=re.escape(message)):
        config.build(detector, CLASSES)


def drawn(index: int, side: int = 96) -> Sample:
    """Two objects, a disk and a triangle, in colors of their class on noise."""
    generator = np.random.default_rng(index)
    masks = np.zeros((2, side, side), np.uint8)
    for mask, column in zip(masks, (0, 1), strict=True):
        x, y = (24 + 48 * column + generator.integers(-4, 5), generator.integers(28, 68))
        radius = int(generator.integers(14, 20))
        if column == index % 2:
            cv2.circle(mask, (int(x), int(y)), radius, 1, -1)
        else:
            corners = [(x - radius, y + radius), (x + radius, y + radius), (x, y - radius)]
            cv2.fillPoly(mask, [np.array(corners, np.int32)], 1)
    image = generator.integers(0, 90, (side, side, 3)).astype(np.uint8)
    for mask, color in zip(masks, ((220, 60, 60), (60, 90, 230)), strict=True):
        image[mask > 0] = color
    boxes = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return replace(sample(boxes, masks.astype(bool), side=side), image=image)


@pytest.mark.slow
def test_four_images_are_learned_by_heart() -> None:
    """Targets, losses, decoding and masks agree: every object is found, with nearly all of its pixels."""
    config = InstanceTaskConfig(input=InputSpec(96, 96), postprocess=PostprocessConfig(confidence=0.3))
    torch.manual_seed(0)
    settings = {
        "backbone": {**SMALL, "width": 0.125, "depth": 0.33},
        "neck": {"name": "pan", "block": "c2f", "depth": 0.33},
        "head": "dfl_masks",
    }
    model = from_dict(DetectorConfig, settings, "test").build(len(CLASSES))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # there are few steps
    task = config.build(model, CLASSES)
    criterion = config.build_criterion(model, task)
    samples = [drawn(index) for index in range(4)]
    batch = criterion.collate(samples)
    images = task.normalize(batch.images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0)
    model.train()
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 10) * (1 - step / NUM_STEPS)
        optimizer.zero_grad()
        criterion(model(images), batch).total().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.inference_mode():
        found = task.results(task.infer(model.eval(), images), batch.transforms)
    for one, true in zip(found, samples, strict=True):
        assert sorted(one.labels.tolist()) == [0, 1]
        for label, mask in zip(one.labels, one.masks, strict=True):
            expected = true.object_masks[label]
            dense = mask.to_mask()
            # Targets that only say whether a cell of 4 pixels lies in the object by half lead to 0.82.
            assert (dense & expected).sum() / (dense | expected).sum() > 0.88
