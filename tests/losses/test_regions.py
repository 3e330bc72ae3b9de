"""Dice and Lovasz against other implementations of their definitions, slow and without tricks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from detseg.losses.regions import lovasz_softmax_loss, soft_dice_loss
from detseg.structures import IGNORE_INDEX


def random_case(seed: int, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities ``[2, C, 5, 6]`` float64 and labels with ignored, in which the first image lacks class 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, num_classes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes + 1, (2, 5, 6), generator=generator)
    labels[labels == num_classes] = IGNORE_INDEX
    labels[0][labels[0] == 1] = 0
    return logits.softmax(1), labels


def labeled_pixels(probability: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One image ``[C, H, W]`` as numpy ``[C, P]`` and ``[P]``, without the ignored pixels."""
    kept = (labels != IGNORE_INDEX).numpy()
    return probability.detach().numpy()[:, kept], labels.numpy()[kept]


def slow_dice(probability: np.ndarray, labels: np.ndarray) -> float:
    losses = []
    for position in np.unique(labels):
        truth = (labels == position).astype(float)
        p = probability[position]
        losses.append(1 - 2 * (p * truth).sum() / (p.sum() + truth.sum()))
    return float(np.mean(losses))


def slow_lovasz(probability: np.ndarray, labels: np.ndarray) -> float:
    """The Lovasz extension as an integral: the mean over all levels of one minus the IoU, where the pixels whose error
    exceeds the level are the wrong ones."""
    losses = []
    for position in np.unique(labels):
        truth = labels == position
        errors = np.abs(truth - probability[position])
        levels = np.concatenate([[0.0], np.unique(errors)])
        loss = 0.0
        for low, high in pairwise(levels.tolist()):
            predicted = truth ^ (errors > low)
            loss += (high - low) * (1 - (truth & predicted).sum() / (truth | predicted).sum())
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("loss", "slow"), [(soft_dice_loss, slow_dice), (lovasz_softmax_loss, slow_lovasz)])
def test_equals_the_slow_one(
    loss: Callable[[Tensor, Tensor], Tensor], slow: Callable[[np.ndarray, np.ndarray], float], seed: int
) -> None:
    probability, labels = random_case(seed)
    expected = [slow(*labeled_pixels(p, y)) for p, y in zip(probability, labels, strict=True)]
    assert loss(probability, labels).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [soft_dice_loss, lovasz_softmax_loss])
def test_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    probability, labels = random_case(7)
    assert torch.autograd.gradcheck(lambda logits: loss(logits.softmax(1), labels), probability.log().requires_grad_())


def hard_predictions(labels: list[int], predicted: list[int], num_classes: int = 3) -> tuple[Tensor, Tensor]:
    probability = torch.eye(num_classes)[torch.tensor(predicted)].T.reshape(1, num_classes, 1, -1)
    return probability, torch.tensor(labels).view(1, 1, -1)


HARD = [
    # truth, prediction, IoU and Dice coefficient of the classes present
    ([0, 0, 1, 1], [0, 0, 1, 1], [1, 1], [1, 1]),
    ([0, 0, 1, 1], [0, 1, 1, 1], [1 / 2, 2 / 3], [2 / 3, 4 / 5]),
    ([0, 0, 1, 1], [2, 2, 1, 1], [0, 1], [0, 1]),
    ([0, 0, 1, IGNORE_INDEX], [0, 0, 1, 1], [1, 1], [1, 1]),
    ([0, 0, 1, IGNORE_INDEX, IGNORE_INDEX], [0, 1, 1, 0, 2], [1 / 2, 1 / 2], [2 / 3, 2 / 3]),
    ([2, 2, 2, 2], [2, 1, 0, 2], [1 / 2], [2 / 3]),
]


@pytest.mark.parametrize(("labels", "predicted", "ious", "dices"), HARD)
def test_hard_predictions(labels: list[int], predicted: list[int], ious: list[float], dices: list[float]) -> None:
    probability, truth = hard_predictions(labels, predicted)
    assert lovasz_softmax_loss(probability, truth).item() == pytest.approx(1 - np.mean(ious), abs=1e-6)
    assert soft_dice_loss(probability, truth).item() == pytest.approx(1 - np.mean(dices), abs=1e-6)


@pytest.mark.parametrize("loss", [soft_dice_loss, lovasz_softmax_loss])
def test_an_image_of_ignored_only_is_zero_without_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    labels = torch.tensor([[[IGNORE_INDEX, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX]], [[0, 1], [IGNORE_INDEX, 1]]])
    losses = loss(logits.softmax(1), labels)
    losses.sum().backward()
    assert logits.grad is not None
    assert losses[0] == 0
    assert losses[1] > 0
    assert not logits.grad[0].any()
    assert logits.grad[1].isfinite().all()
    assert not logits.grad[1, :, 1, 0].any()


def test_lovasz_keeps_its_digits_in_large_images() -> None:
    """Differences of float32 ratios would be off by percents here."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 400, 600, generator=generator, dtype=torch.float64)
    labels = (torch.rand(1, 400, 600, generator=generator) < 0.01).long()
    gradients = []
    for dtype in (torch.float64, torch.float32):
        cast = logits.to(dtype, copy=True).requires_grad_()
        lovasz_softmax_loss(cast.softmax(1), labels).sum().backward()
        assert cast.grad is not None
        gradients.append(cast.grad.double())
    # Two pixels whose errors are nearly equal may change places: nothing is said of a single one.
    assert (gradients[1] - gradients[0]).abs().sum() < 1e-4 * gradients[0].abs().sum()


def test_every_image_needs_its_labels() -> None:
    probability, labels = random_case(0)
    with pytest.raises(ValueError, match=r"is shorter"):
        lovasz_softmax_loss(probability, labels[:1])
