from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from detseg.losses import DETECTION_LOSSES, detection
from detseg.losses.base import LossSum
from detseg.losses.detection import (
    DetectionLoss,
    SimOTALossConfig,
    TALLossConfig,
    direct_targets,
    distribution_focal_loss,
)
from detseg.ops.boxes import cxcywh_to_xyxy
from detseg.ops.decode import decode_direct_boxes

STRIDES = (8, 16, 32)
NUM_CLASSES = 5
LOSS_AND_CHANNELS = {
    "tal": (TALLossConfig().build(NUM_CLASSES, STRIDES, 16), 64 + NUM_CLASSES),
    "simota": (SimOTALossConfig(l1=1.0).build(NUM_CLASSES, STRIDES), 5 + NUM_CLASSES),
}
each_loss = pytest.mark.parametrize(("loss", "num_channels"), LOSS_AND_CHANNELS.values(), ids=LOSS_AND_CHANNELS.keys())


def _maps(num_images: int, num_channels: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_images, num_channels, 64 // stride, 96 // stride, generator=generator).requires_grad_()
        for stride in STRIDES
    ]


def _targets(num_images: int, num_boxes: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(num_images, num_boxes, 2, generator=generator) * torch.tensor([96.0, 64.0])
    sizes = torch.rand(num_images, num_boxes, 2, generator=generator) * 50 + 2
    labels = torch.randint(-1, NUM_CLASSES, (num_images, num_boxes), generator=generator)
    return torch.cat((centers - sizes / 2, centers + sizes / 2), dim=-1), labels


def _gradients(loss: LossSum, levels: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss.total(), levels))


def _assert_close_to_reference(got: Tensor, reference: Tensor) -> None:
    """Every element within 1e-4 of itself, or, where terms cancel out, within 1e-6 of the largest."""
    torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-6 * reference.abs().max().item())


@pytest.fixture
def assignments(monkeypatch):
    """What the losses of this test assign, in order."""
    seen = []

    def listen(name: str) -> None:
        assign = getattr(detection, name)

        def wrapped(*args, **settings):
            seen.append(assign(*args, **settings))
            return seen[-1]

        monkeypatch.setattr(detection, name, wrapped)

    listen("task_aligned_assign")
    listen("simota_assign")
    return seen


def test_task_aligned_loss_equals_the_reference(detseg_data: Path, assignments):
    reference = load_file(detseg_data / "reference" / "tal_dfl_loss_reference.safetensors")
    height, width = reference["image_height_width"].tolist()
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    raw = torch.cat((reference["boxes"], reference["scores"]), dim=1)
    flat = raw.split([rows * columns for rows, columns in sizes], dim=2)
    levels = [level.unflatten(2, size).clone().requires_grad_() for level, size in zip(flat, sizes, strict=True)]
    image, all_boxes = reference["target_image"], reference["target_boxes_cxcywh_normalized"]
    boxes_xyxy = torch.zeros(len(raw), int(image.bincount().max()), 4)
    labels = torch.full(boxes_xyxy.shape[:2], -1)
    for i in range(len(raw)):
        count = int((image == i).sum())
        boxes_xyxy[i, :count] = cxcywh_to_xyxy(all_boxes[image == i] * torch.tensor([width, height] * 2))
        labels[i, :count] = reference["target_class"][image == i]
    box, cls, dfl = reference["gains_box_cls_dfl"].tolist()

    loss = TALLossConfig(box=box, cls=cls, dfl=dfl).build(80, STRIDES, 16)(levels, boxes_xyxy, labels)

    foreground = reference["foreground_mask"].bool()
    assert foreground.sum() > 100
    assert torch.equal(assignments[0].foreground, foreground)
    assert torch.equal(assignments[0].index[foreground], reference["target_gt_index"][foreground])
    parts = torch.stack([loss.parts[name] for name in ("box", "cls", "dfl")]) / loss.normalizer
    torch.testing.assert_close(parts.detach(), reference["loss_box_cls_dfl_gain_scaled"], rtol=1e-4, atol=0)
    gradient = torch.cat([g.flatten(2) for g in _gradients(loss, levels)], dim=2)
    _assert_close_to_reference(gradient[:, :64], reference["grad_boxes"])
    _assert_close_to_reference(gradient[:, 64:], reference["grad_scores"])


def test_simota_loss_equals_the_reference(detseg_data: Path):
    reference = load_file(detseg_data / "reference" / "simota_loss_reference.safetensors")
    levels = [reference[f"raw_stride{stride}"].clone().requires_grad_() for stride in STRIDES]
    padded = reference["labels_class_cxcywh_pixels"]
    labels = padded[..., 0].long().masked_fill(padded[..., 3] == 0, -1)

    loss = SimOTALossConfig().build(80, STRIDES)(levels, cxcywh_to_xyxy(padded[..., 1:]), labels)

    per_box = loss.normalizer / (labels >= 0).sum()
    torch.testing.assert_close(per_box[None], reference["foreground_per_ground_truth"])
    for name, reference_name in (("iou", "iou"), ("obj", "objectness"), ("cls", "class")):
        part = (loss.parts[name] / loss.normalizer).detach()[None]
        torch.testing.assert_close(part, reference[f"loss_{reference_name}"], rtol=1e-4, atol=0)
    torch.testing.assert_close(loss.total().detach()[None], reference["loss_total"], rtol=1e-4, atol=0)
    for stride, gradient in zip(STRIDES, _gradients(loss, levels), strict=True):
        _assert_close_to_reference(gradient, reference[f"grad_stride{stride}"])


@pytest.mark.parametrize(("min_target", "weight"), [(0.0, 0.25), (0.5, 0.5)])
def test_task_aligned_loss_of_one_point_by_hand(min_target, weight):
    # The point (16, 16) of stride 32 predicts one stride to every side of a box that has half a stride: IoU 1/4.
    level = torch.zeros(1, 4 * 16 + 2, 1, 1)
    level[0, [1, 17, 33, 49]] = 100.0
    level[0, 65] = math.log(3)
    whole_image, label = torch.tensor([[[0.0, 0, 32, 32]]]), torch.tensor([[1]])
    loss = TALLossConfig(min_target=min_target).build(2, (32,), 16)([level], whole_image, label)
    assert loss.normalizer.item() == pytest.approx(weight, rel=1e-4)
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {
            "box": 7.5 * weight * (1 - 0.25),
            "cls": 0.5 * (math.log(2) + math.log(4) - weight * math.log(3)),
            "dfl": 1.5 * weight * 100 / 2,
        },
        rel=1e-4,
    )


def test_simota_loss_of_one_point_by_hand():
    # Zeros mean a box of one stride about the cell's corner: IoU 16^2 / (2 * 32^2 - 16^2) = 1/7 with the whole cell.
    level = torch.zeros(1, 4 + 1 + 2, 1, 1)
    level[0, 4], level[0, 6] = math.log(7), math.log(3)
    whole_image, label = torch.tensor([[[0.0, 0, 32, 32]]]), torch.tensor([[1]])
    loss = SimOTALossConfig(l1=2.0).build(2, (32,))([level], whole_image, label)
    assert loss.normalizer.item() == 1
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {
            "iou": 5 * (1 - 1 / 49),
            "obj": math.log(8) - math.log(7),
            "cls": math.log(2) + math.log(4) - math.log(3) / 7,
            "l1": 2 * (0.5 + 0.5),
        },
        rel=1e-5,
    )


@each_loss
def test_micro_batches_add_up_to_the_batch(loss, num_channels):
    levels, (boxes_xyxy, labels) = _maps(8, num_channels), _targets(8)
    labels[2:4] = -1
    whole = loss(levels, boxes_xyxy, labels)
    gradients = _gradients(whole, levels)

    pieces = [slice(start, start + 2) for start in range(0, 8, 2)]
    micro = [loss([level[piece] for level in levels], boxes_xyxy[piece], labels[piece]) for piece in pieces]
    parts = {name: torch.stack([one.parts[name] for one in micro]).sum() for name in whole.parts}
    added = LossSum(parts, torch.stack([one.normalizer for one in micro]).sum())

    assert added.normalizer.item() == pytest.approx(whole.normalizer.item())
    assert micro[1].normalizer.item() == 0
    for name, part in whole.parts.items():
        assert added.parts[name].item() == pytest.approx(part.item()), name
        assert part.item() > 0, name
    for got, expected in zip(_gradients(added, levels), gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@each_loss
def test_settings_weigh_the_parts(loss, num_channels):
    levels, targets = _maps(2, num_channels), _targets(2)
    parts = loss(levels, *targets).parts
    for name in parts:
        doubled = type(loss.config)(**{**vars(loss.config), name: 2 * getattr(loss.config, name)})
        weighed = doubled.build(NUM_CLASSES, STRIDES, 16)(levels, *targets).parts
        for other, part in parts.items():
            assert weighed[other].item() == pytest.approx(part.item() * (2 if other == name else 1))


@each_loss
@pytest.mark.parametrize("num_boxes", [0, 3])
def test_batch_without_objects_trains_the_background(loss, num_channels, num_boxes):
    levels = _maps(2, num_channels)
    result = loss(levels, torch.zeros(2, num_boxes, 4), torch.full((2, num_boxes), -1))
    assert result.normalizer.item() == 0
    background = "cls" if num_channels > 64 else "obj"
    assert result.parts[background].item() > 0
    assert all(part.item() == 0 for name, part in result.parts.items() if name != background)
    gradients = _gradients(result, levels)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@each_loss
def test_same_input_same_bits(loss, num_channels):
    levels, targets = _maps(4, num_channels), _targets(4)
    first, second = loss(levels, *targets), loss(levels, *targets)
    assert all(torch.equal(part, second.parts[name]) for name, part in first.parts.items())
    assert all(map(torch.equal, _gradients(first, levels), _gradients(second, levels)))


@each_loss
def test_arithmetic_is_float32_under_autocast(loss, num_channels):
    levels, targets = [level.detach().bfloat16() for level in _maps(2, num_channels)], _targets(2)
    expected = loss([level.float() for level in levels], *targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(levels, *targets)
    assert got.normalizer.dtype == torch.float32
    assert not got.normalizer.requires_grad
    for name, part in got.parts.items():
        assert part.dtype == torch.float32
        assert torch.equal(part, expected.parts[name]), name


@each_loss
@pytest.mark.parametrize("value", [math.nan, -math.nan])
@pytest.mark.parametrize("channel", [0, -1], ids=["box", "class"])
def test_prediction_that_is_nan_shows_in_the_loss(loss, num_channels, channel, value):
    levels = [level.detach() for level in _maps(2, num_channels)]
    levels[0][1, channel, 4, 6] = value
    twice = torch.tensor([[[8.0, 8, 90, 60]] * 2] * 2)
    assert not loss(levels, twice, torch.tensor([[0, 1]] * 2)).total().isfinite()


@each_loss
def test_a_step_against_the_gradient_lowers_the_loss(loss, num_channels):
    levels, targets = _maps(2, num_channels), _targets(2)
    before = loss(levels, *targets)
    gradients = _gradients(before, levels)
    length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    stepped = [level - 1e-2 / length * gradient for level, gradient in zip(levels, gradients, strict=True)]
    fall = before.total().item() - loss(stepped, *targets).total().item()
    assert fall > 0


@each_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 3}, r"a loss for 5 classes needs maps \[B, \d+, H, W\], got \[2, 3, 8, 12\]"),
        ({"labels": torch.full((2, 6), 5)}, "labels must lie in 0 to 4, or be -1 for padding, got 5 to 5"),
        ({"labels": torch.full((2, 6), -2)}, "got -2 to -2"),
        ({"labels": torch.full((2, 7), 0)}, r"got \[2, 7\] and \[2, 6, 4\]"),
        ({"labels": torch.full((3, 6), 0)}, r"2 images need labels \[2, M\] and boxes \[2, M, 4\]"),
    ],
    ids=["channels", "label too high", "label too low", "more labels than boxes", "more labels than images"],
)
def test_input_that_does_not_fit(loss, num_channels, change, message):
    boxes_xyxy, labels = _targets(2)
    with pytest.raises(ValueError, match=message):
        loss(_maps(2, change.get("channels", num_channels)), boxes_xyxy, change.get("labels", labels))


@pytest.mark.parametrize(
    ("distances", "weights_by_bin"),
    [
        ((2.25, 2.25, 2.25, 2.25), {2: 0.75, 3: 0.25}),
        ((0, 0, 2, 2), {0: 0.5, 2: 0.5}),
        ((-3, -1, 0, 0), {0: 1}),
        ((3, 2.99, 40, 2.99), {2: 0.01, 3: 0.99}),
    ],
    ids=["between reg_max", "on reg_max", "point outside the box", "beyond the last bin"],
)
def test_distribution_focal_loss(distances, weights_by_bin):
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = -sum(weight * math.log(probability[position]) for position, weight in weights_by_bin.items())
    loss = distribution_focal_loss(probability.log().expand(1, 4, 4), torch.tensor([distances], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected)


def test_direct_targets_are_what_decodes_to_the_box():
    boxes_xyxy = torch.tensor([[10.0, 20.0, 42.0, 28.0], [3.0, 3.0, 99.0, 80.0]])
    points_xy, stride = torch.tensor([[20.0, 28.0], [48.0, 48.0]]), torch.tensor([8.0, 32.0])
    raw = direct_targets(boxes_xyxy, points_xy, stride)
    # Center (26, 24) of a 32 x 8 box, seen from cell (2, 3) of stride 8.
    torch.testing.assert_close(raw[0], torch.tensor([1.25, 0.0, math.log(4), 0.0]))
    torch.testing.assert_close(decode_direct_boxes(raw, points_xy, stride), boxes_xyxy)
    torch.testing.assert_close(direct_targets(boxes_xyxy.expand(3, 2, 4), points_xy, stride), raw.expand(3, 2, 4))


def test_l1_part_exists_only_with_a_gain():
    levels, targets = _maps(1, 5 + NUM_CLASSES), _targets(1)
    assert list(SimOTALossConfig().build(NUM_CLASSES, STRIDES)(levels, *targets).parts) == ["iou", "obj", "cls"]


@pytest.mark.parametrize(("name", "target"), DETECTION_LOSSES.items())
def test_table_names_configurations_that_build(name, target):
    module, attribute = target.split(":")
    config = getattr(importlib.import_module(module), attribute)()
    assert config.name == name
    loss: DetectionLoss = config.build(num_classes=NUM_CLASSES, strides=STRIDES)  # with the 16 bins of a plain head
    levels = 2 * _maps(1, 4 * 16 + NUM_CLASSES) if name == "dual" else _maps(1, LOSS_AND_CHANNELS[name][1])
    assert loss(levels, *_targets(1)).total().isfinite()


def test_table_is_read_without_torch():
    code = "import sys, detseg.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
