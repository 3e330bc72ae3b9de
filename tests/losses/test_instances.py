from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detseg.losses.instances import TALMasksLossConfig, mask_loss, pack_shares, unpack_shares

STRIDES, NUM_CLASSES, NUM_PROTOTYPES = (8, 16, 32), 4, 8
HEIGHT, WIDTH = 128, 160
SIZES = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
REFERENCE = {"box": 3.2668497562408447, "mask": 9.086925506591797, "cls": 92.97333526611328, "dfl": 4.143983840942383}
"""Of ultralytics 8.4.190, v8SegmentationLoss, masks that may overlap, for the tensors of :func:`example`."""
REFERENCE_GRADIENTS = {
    "boxes": (7.6761168072870305, -0.04187706026277719),
    "scores": (54.66373779333662, -0.322205808897551),
    "coefficients": (6.972965700304485, -0.008439001445016914),
    "prototypes": (10.675028011032943, -0.018231673343793515),
}
"""Of the sum of the parts: the sum of absolute values, and the product with cos(0), cos(1), ..., in the order
``[B, channels, A]`` of the anchor points."""


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random raw maps ``[B, channels, A]``, prototypes, boxes, labels and masks of 2 images with 5 and 3 objects.

    No side of a box is where rounding would decide over a row of cells, and every object has ten predictions that
    overlap it: which ones are taken of those that do not is left open in the reference.
    """
    generator = np.random.default_rng(0)
    num_points = sum(rows * columns for rows, columns in SIZES)
    raw = generator.random((2, 64 + NUM_CLASSES + NUM_PROTOTYPES, num_points)) * 4 - 2
    raw[:, :64] -= 0.3 * np.tile(np.arange(16), 4)[:, None]  # boxes of some 60 pixels
    prototypes = generator.random((2, NUM_PROTOTYPES, HEIGHT // 4, WIDTH // 4)) * 2 - 0.5
    centers, sides = generator.random((2, 5, 2)) * [WIDTH, HEIGHT], generator.random((2, 5, 2)) * 40 + 48
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=2).clip(
        0.5, np.array([WIDTH, HEIGHT] * 2) - 0.5
    )
    labels = generator.integers(0, NUM_CLASSES, (2, 5))
    labels[1, 3:] = -1
    masks = generator.random((2, 5, HEIGHT // 4, WIDTH // 4)) < 0.5
    raw, prototypes, boxes = (torch.from_numpy(one.astype(np.float32)) for one in (raw, prototypes, boxes))
    return raw, prototypes, boxes, torch.from_numpy(labels), torch.from_numpy(masks)


def levels_of(raw: torch.Tensor) -> list[torch.Tensor]:
    parts = raw.split([rows * columns for rows, columns in SIZES], dim=2)
    return [part.unflatten(2, size) for part, size in zip(parts, SIZES, strict=True)]


def loss():
    return TALMasksLossConfig().build(NUM_CLASSES, STRIDES)


def test_loss_and_gradients_equal_the_reference() -> None:
    raw, prototypes, boxes, labels, masks = example()
    raw.requires_grad_()
    prototypes.requires_grad_()
    found = loss()(levels_of(raw), prototypes, boxes, labels, pack_shares(masks))
    parts = {name: (part / found.normalizer).item() for name, part in found.parts.items()}
    assert parts == pytest.approx(REFERENCE, rel=1e-5)
    of_raw, of_prototypes = torch.autograd.grad(found.total(), [raw, prototypes])
    gradients = (*of_raw.split((64, NUM_CLASSES, NUM_PROTOTYPES), dim=1), of_prototypes)
    for gradient, (name, (total, product)) in zip(gradients, REFERENCE_GRADIENTS.items(), strict=True):
        flat = gradient.double().flatten()
        assert flat.abs().sum().item() == pytest.approx(total, rel=1e-4), name
        weights = torch.cos(torch.arange(len(flat)).double())
        assert (flat * weights).sum().item() == pytest.approx(product, rel=1e-4, abs=1e-5 * total), name


def test_a_mask_by_hand() -> None:
    """One prototype, which is the logit: two of four cells in the box of 2 x 2.5 cells are in the mask."""
    prototypes = torch.tensor([[[0.0, 1.0, 5.0], [2.0, -1.0, 5.0], [5.0, 5.0, 5.0]]])
    masks = torch.tensor([[[True, True, False], [False, False, True], [True, True, True]]])
    softplus = [math.log1p(math.exp(x)) for x in (0, 1, 2, -1)]
    found = mask_loss(torch.tensor([[1.0]]), prototypes, torch.tensor([[-0.5, 0.0, 2.0, 2.0]]), masks)
    assert found.tolist() == pytest.approx([(sum(softplus) - 0 - 1) / 5])


def test_boxes_of_less_than_a_cell_count_as_one() -> None:
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    boxes = torch.tensor([[1.0, 1.0, 1.1, 1.1], [1.5, 1.5, 1.5, 1.5]])
    found = mask_loss(torch.zeros(2, 1), torch.zeros(1, 4, 4), boxes, masks)
    assert found.tolist() == pytest.approx([math.log(2), 0.0])


def test_without_objects_masks_cost_nothing_and_all_outputs_have_gradients() -> None:
    raw, prototypes, boxes, labels, masks = example()
    raw.requires_grad_()
    prototypes.requires_grad_()
    found = loss()(levels_of(raw), prototypes, boxes, torch.full_like(labels, -1), pack_shares(masks))
    assert (found.parts["mask"].item(), found.normalizer.item()) == (0, 0)
    gradients = torch.autograd.grad(found.total(), [raw, prototypes])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_padding_and_masks_of_others_do_not_count() -> None:
    raw, prototypes, boxes, labels, masks = example()
    expected = loss()(levels_of(raw), prototypes, boxes, labels, pack_shares(masks))
    masks[1, 3:] = ~masks[1, 3:]
    boxes[1, 3:] = 7
    again = loss()(levels_of(raw), prototypes, boxes, labels, pack_shares(masks))
    assert again.total().item() == expected.total().item()
    masks[0, 0] = ~masks[0, 0]
    assert loss()(levels_of(raw), prototypes, boxes, labels, pack_shares(masks)).parts["mask"] != expected.parts["mask"]


@pytest.mark.parametrize("width", [1, 2, 7, 24])
def test_packing_keeps_every_share(width: int) -> None:
    shares = torch.randint(16, (2, 3, 4, width), generator=torch.Generator().manual_seed(0)) / 15
    packed = pack_shares(shares)
    assert (packed.dtype, packed.shape) == (torch.uint8, (2, 3, 4, -(-width // 2)))
    assert torch.equal(unpack_shares(packed, width), shares)


def test_packed_shares_by_hand() -> None:
    """Of 15 steps: 0.5 is 7.5, which rounds to 8, 1 is 15 and 0.2 is 3; the first cell is in the lower half."""
    assert pack_shares(torch.tensor([0.5, 1.0, 0.2])).tolist() == [8 + 16 * 15, 3]
    assert pack_shares(torch.tensor([True, False])).tolist() == [15]


def test_a_share_is_the_probability_that_costs_least() -> None:
    """A cell that lies in the object by a fifth: the loss is least where the logit is log(0.2 / 0.8)."""
    logit = torch.tensor([[math.log(0.25)]], requires_grad=True)
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    mask_loss(logit, torch.ones(1, 1, 1), box, torch.full((1, 1, 1), 0.2)).sum().backward()
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(0, abs=1e-7)


def test_masks_of_another_size_are_refused() -> None:
    raw, prototypes, boxes, labels, masks = example()
    with pytest.raises(ValueError, match=r"need packed masks \[2, 5, 32, 20\] of uint8, got \[2, 5, 32, 40\] of"):
        loss()(levels_of(raw), prototypes, boxes, labels, masks)
