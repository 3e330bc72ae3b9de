from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.pixelwise import cross_entropy, focal_loss, hard_pixels, pixel_weights
from detseg.structures import IGNORE_INDEX

WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=torch.float64)


def random_case(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits ``[3, 4, 5, 6]`` float64 and labels with a fifth of ignored; the last image is all ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (3, 5, 6), generator=generator)
    labels[labels == 4] = IGNORE_INDEX
    labels[2] = IGNORE_INDEX
    return logits.requires_grad_(), labels


def binary(*probabilities: float) -> Tensor:
    """Log-probabilities ``[1, 2, 1, W]`` in which class 0 has these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack((first, 1 - first)).log().view(1, 2, 1, -1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_cross_entropy_equals_torch(smoothing: float, weights: Tensor | None) -> None:
    logits, labels = random_case()
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    losses = cross_entropy(logits.log_softmax(1), labels, weights, smoothing)
    loss = losses.sum() / pixel_weights(labels, weights).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
    assert not losses[labels == IGNORE_INDEX].any()


def test_a_class_that_is_ruled_out_costs_nothing_without_smoothing() -> None:
    losses = cross_entropy(binary(1.0, 1.0), torch.tensor([[[0, IGNORE_INDEX]]]))
    assert losses[0, 0].tolist() == [0, 0]


def test_pixel_weights() -> None:
    labels = torch.tensor([[[0, 1, IGNORE_INDEX, 3]]])
    assert pixel_weights(labels).tolist() == [[[1, 1, 0, 1]]]
    assert pixel_weights(labels, WEIGHTS).tolist() == [[[0.5, 2, 0, 1.5]]]
    assert pixel_weights(torch.tensor([[[254, IGNORE_INDEX]]]), torch.ones(255)).tolist() == [[[1, 0]]]


@pytest.mark.parametrize(
    ("probability", "gamma", "expected"),
    [(0.9, 2.0, 0.1**2 * -math.log(0.9)), (0.25, 2.0, 0.75**2 * math.log(4)), (0.25, 0.5, 0.75**0.5 * math.log(4))],
)
def test_focal_loss(probability: float, gamma: float, expected: float) -> None:
    labels = torch.tensor([[[0, IGNORE_INDEX]]])
    losses = focal_loss(binary(probability, probability), labels, gamma)
    assert losses[0, 0].tolist() == pytest.approx([expected, 0], rel=1e-12)
    weighted = focal_loss(binary(probability, probability), labels, gamma, torch.tensor([3.0, 1.0]))
    assert weighted[0, 0].tolist() == pytest.approx([3 * expected, 0], rel=1e-6)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, labels = random_case()
    log_probability = logits.log_softmax(1)
    expected = cross_entropy(log_probability, labels, WEIGHTS)
    torch.testing.assert_close(focal_loss(log_probability, labels, 0.0, WEIGHTS), expected, check_dtype=False)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_of_a_sure_pixel_is_finite(gamma: float) -> None:
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2).clone().requires_grad_()
    focal_loss(logits.log_softmax(1), torch.tensor([[[0, IGNORE_INDEX]]]), gamma).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == torch.zeros(1, 2, 1, 2).tolist()


HARD = [
    # probabilities of the true class, threshold, min_kept, which are kept
    ([0.1, 0.6, 0.8, 0.9], 0.7, 0.0, [1, 1, 0, 0]),
    ([0.1, 0.6, 0.8, 0.9], 0.5, 0.25, [1, 0, 0, 0]),
    ([0.4, 0.5, 0.6], 0.5, 0.0, [1, 0, 0]),
    ([0.8, 0.9, 0.75, 0.95], 0.7, 0.25, [0, 0, 1, 0]),
    ([0.8, 0.9, 0.75, 0.95], 0.7, 0.26, [1, 0, 1, 0]),
    ([0.8, 0.9, 0.75, 0.95], 0.7, 0.0, [0, 0, 0, 0]),
    ([0.8, 0.9, 0.75, 0.95], 0.7, 1.0, [1, 1, 1, 1]),
    ([0.9, 0.8, 0.8, 0.8], 0.7, 0.25, [0, 1, 1, 1]),
    ([0.1, 0.2, 0.3, 0.9], 0.7, 0.25, [1, 1, 1, 0]),
]


@pytest.mark.parametrize(("probabilities", "threshold", "min_kept", "kept"), HARD)
def test_hard_pixels(probabilities: list[float], threshold: float, min_kept: float, kept: list[int]) -> None:
    labels = torch.zeros(1, 1, len(kept), dtype=torch.int64)
    found = hard_pixels(binary(*probabilities), labels, threshold, min_kept)
    assert found[0, 0].int().tolist() == kept


def test_ignored_is_never_hard_and_every_image_is_judged_by_itself() -> None:
    easy, hard = [0.99, 0.98, 0.97, 0.96, 0.1], [0.1, 0.2, 0.3, 0.95, 0.1]
    log_probability = torch.cat((binary(*easy), binary(*hard), binary(*hard)))
    labels = torch.tensor([[[0, 0, 0, 0, IGNORE_INDEX]], [[0, 0, 0, 0, IGNORE_INDEX]], [[IGNORE_INDEX] * 5]])
    found = hard_pixels(log_probability, labels, 0.7, 0.5)
    assert found[:, 0].int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 0, 0], [0] * 5]
    sure = hard_pixels(binary(1.0, 1.0, 1.0), torch.tensor([[[0, 0, IGNORE_INDEX]]]), 0.7, 0.5)
    assert sure[0, 0].int().tolist() == [1, 1, 0]
