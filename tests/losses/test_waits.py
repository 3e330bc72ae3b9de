"""On a GPU a loss may wait for the host as often as is written here and no more; its value is what it is on the CPU.

There is no GPU here. What makes the host wait is counted on tensors of the CPU, which the losses are told not to look
into; see ``waits`` in ``tests/conftest.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detseg.losses import assigners, checks, detection, pixelwise, regions
from detseg.losses.assigners import simota_assign, task_aligned_assign
from detseg.losses.base import LossSum
from detseg.losses.detection import SimOTALoss, TALLoss
from detseg.losses.instances import TALMasksLoss, pack_shares
from detseg.losses.segmentation import OHEMConfig, SegmentationLoss, SegmentationLossConfig

NUM_CLASSES, STRIDES, SIDE = 3, (8, 16), 64


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, no tensor is on the host."""

    def begin() -> None:
        for module in (assigners, checks, detection, pixelwise, regions):
            monkeypatch.setattr(module, "on_host", lambda tensor: False)

    return begin


def targets(seed: int, counts: tuple[int, ...] = (3, 0, 5)) -> tuple[Tensor, Tensor]:
    """Boxes and labels with padding, some of it between objects; two objects of an image lie upon each other."""
    generator = torch.Generator().manual_seed(seed)
    most = max(counts) + 2
    corner = torch.rand(len(counts), most, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 4 + torch.rand(len(counts), most, 2, generator=generator) * 30], dim=2)
    boxes[:, 1] = boxes[:, 0]
    labels = torch.randint(NUM_CLASSES, (len(counts), most), generator=generator)
    for image, count in enumerate(counts):
        padding = torch.randperm(most, generator=generator)[count:]
        labels[image, padding] = -1
        boxes[image, padding] = 0
    return boxes, labels


def maps(channels: int, seed: int, num_images: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [SIDE // stride for stride in STRIDES]
    return [torch.randn(num_images, channels, n, n, generator=generator).requires_grad_() for n in sizes]


def tal(seed: int) -> tuple[Callable[[], LossSum], list[Tensor]]:
    levels = maps(4 * 8 + NUM_CLASSES, seed)
    return lambda: TALLoss(NUM_CLASSES, STRIDES, 8)(levels, *targets(seed)), levels


def simota(seed: int) -> tuple[Callable[[], LossSum], list[Tensor]]:
    levels = maps(5 + NUM_CLASSES, seed)
    return lambda: SimOTALoss(NUM_CLASSES, STRIDES)(levels, *targets(seed)), levels


def masks(seed: int) -> tuple[Callable[[], LossSum], list[Tensor]]:
    levels, prototypes = maps(4 * 8 + NUM_CLASSES + 4, seed), torch.randn(3, 4, 16, 16).requires_grad_()
    boxes, labels = targets(seed)
    cells = pack_shares(torch.rand(*labels.shape, 16, 16) > 0.5)
    loss = TALMasksLoss(TALLoss(NUM_CLASSES, STRIDES, 8), 1.0)
    return lambda: loss(levels, prototypes, boxes, labels, cells), [*levels, prototypes]


def pixels(seed: int) -> tuple[Callable[[], LossSum], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, NUM_CLASSES, 9, 11, generator=generator) * 3).requires_grad_()
    labels = torch.randint(NUM_CLASSES, (3, 9, 11), generator=generator, dtype=torch.uint8)
    labels[0, :, :4] = 255
    labels[1] = labels[1].clamp(max=1)  # one class is not there
    labels[2] = 255
    config = SegmentationLossConfig(
        dice=1.0, lovasz=1.0, ohem=OHEMConfig(threshold=0.2, min_kept=0.5), class_weights=(1.0, 2.0, 3.0)
    )
    loss = SegmentationLoss(NUM_CLASSES, config)
    return lambda: loss(logits, labels), [logits]


@pytest.mark.parametrize(("make", "allowed"), [(tal, 2), (simota, 1), (masks, 4), (pixels, 0)])
def test_how_often_the_host_waits(
    make: Callable[[int], Any], allowed: int, on_device: Callable[[], None], waits: Any
) -> None:
    loss, inputs = make(0)
    expected = loss()
    gradients = torch.autograd.grad(expected.total(), inputs)
    on_device()
    with waits() as counted:
        found = loss()
        ours = torch.autograd.grad(found.total(), inputs)
    assert len(counted.names) == allowed, counted.names
    assert found.parts.keys() == expected.parts.keys()
    for name, part in expected.parts.items():
        assert float(part.detach()) > 0
        torch.testing.assert_close(found.parts[name], part, rtol=1e-6, atol=0, msg=name)
    torch.testing.assert_close(found.normalizer, expected.normalizer, rtol=1e-7, atol=0)
    for mine, theirs in zip(ours, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["tal", "simota"])
def test_assignments_are_the_same_bit_by_bit(kind: str, seed: int, on_device: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = [(3, 0, 5), (0, 0, 0), (1, 1, 1), (9, 4, 2)][seed % 4]
    boxes, labels = targets(seed, counts)
    num_points = 20
    points = torch.rand(num_points, 2, generator=generator) * SIDE
    corner = points + torch.rand(3, num_points, 2, generator=generator) * 8 - 12
    predicted = torch.cat([corner, corner + 20], dim=2)
    logits = torch.randn(3, num_points, NUM_CLASSES, generator=generator)
    logits[:, ::3] = 0.5  # ties
    predicted[:, ::5] = predicted[:, 1:2]
    if seed == 1:
        logits[0, 2] = float("nan")

    def assign() -> Any:
        if kind == "tal":
            return task_aligned_assign(predicted, logits, points, boxes, labels, top_k=4, min_target=0.1 * (seed % 2))
        return simota_assign(
            predicted, logits, torch.randn(3, num_points, generator=torch.Generator().manual_seed(1)),
            points, torch.full((num_points,), 8.0), boxes, labels,
        )  # fmt: skip

    expected = assign()
    on_device()
    found = assign()
    for name in ("foreground", "index", "target_scores"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True)
    assert bool(expected.foreground.any()) == bool((labels >= 0).any())


def test_the_counter_counts(waits: Any) -> None:
    """Everything that makes the host wait for a GPU."""
    values = torch.arange(6.0)
    with waits() as counted:
        values.sum().item()
        bool(values.any())
        values.tolist()
        values[values > 2]
        torch.nonzero(values)
        torch.bincount(values.long())
        values.new_tensor([1.0])
        torch.tensor([1.0, 2.0])
        values.cpu()
        values.numpy()
        torch.masked_select(values, values > 0)
    assert len(counted.names) == 11, counted.names
    with waits() as none:
        values[values > 2] = 1.0  # a number goes where a mask says without a list of places
        values.sum().clamp(min=1) + values.new_full((), 2.0)
        values[torch.zeros_like(values, dtype=torch.long)]
    assert none.names == []
