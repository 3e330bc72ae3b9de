"""Losses that judge the region of each class as a whole, image by image: soft Dice and Lovasz-Softmax.

Shapes: ``B`` images, ``C`` classes, ``H`` rows, ``W`` columns, ``P`` pixels of an image, ``K`` classes that it holds.
``probability`` is the softmax ``[B, C, H, W]`` of the logits; ``labels`` ``[B, H, W]`` are class positions,
``IGNORE_INDEX`` where there is none. Such pixels belong to no region.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detseg.losses.checks import on_host
from detseg.structures import IGNORE_INDEX


class RegionSums(NamedTuple):
    """Sums over the labeled pixels of each image and class, ``[B, C]``: of ``p * t``, of ``p`` or its square, and of
    ``t``, which is its own square, for the probability p and the truth t of 0 or 1."""

    intersection: Tensor
    predicted: Tensor
    true: Tensor


def region_sums(probability: Tensor, labels: Tensor, squared: bool = False) -> RegionSums:
    """What soft Dice coefficients are made of, for pixels or voxels: ``[B, C, *]`` and ``[B, *]``, any dimensions."""
    probability, labels = probability.flatten(2), labels.flatten(1)
    truth = _one_hot(labels, probability.shape[1], dim=1)
    labeled = (labels != IGNORE_INDEX).to(probability.dtype)[:, None]
    # A product with booleans: several times as fast as torch.where on a CPU, and the backward pass keeps one byte of
    # truth for each pixel and class.
    intersection = (probability * truth).sum(2)
    predicted = ((probability.square() if squared else probability) * labeled).sum(2)
    return RegionSums(intersection, predicted, truth.sum(2))


def soft_dice_loss(probability: Tensor, labels: Tensor) -> Tensor:
    """One minus the Dice coefficient of each image ``[B]``, mean over the classes it holds; 0 where all is ignored.

    The coefficient of a class is ``2 * sum(p * t) / (sum(p) + sum(t))`` over the labeled pixels, with probability p and
    truth t of 0 or 1: sums in the denominator, not sums of squares as in V-Net (arXiv 1606.04797). A class that the
    image does not hold is left out, so the denominator is at least 1 and no smoothing term is needed.
    """
    sums = region_sums(probability, labels)
    present = sums.true > 0
    total = torch.where(present, sums.predicted + sums.true, 1)
    loss = torch.where(present, 1 - 2 * sums.intersection / total, 0)
    return loss.sum(1) / present.sum(1).clamp(min=1)


def lovasz_softmax_loss(probability: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz-Softmax loss of each image ``[B]`` (arXiv 1705.08790), mean over the classes it holds; 0 where all is
    ignore_index: the piecewise linear continuation of one minus the IoU from hard predictions to probabilities."""
    pairs = zip(probability.flatten(2), labels.flatten(1), strict=True)
    return torch.stack([_lovasz_of_image(probability, labels) for probability, labels in pairs])


def _lovasz_of_image(probability: Tensor, labels: Tensor) -> Tensor:
    truth = _one_hot(labels, len(probability), dim=0)
    present = truth.any(dim=1)
    if on_host(labels):  # elsewhere the others are counted as nothing, as the host would wait for their number
        truth, probability = truth[present], probability[present]
    errors = torch.where(truth, 1 - probability, probability)
    # Last in order and without gradient: the same as if these pixels did not exist.
    errors = errors.masked_fill(labels == IGNORE_INDEX, 0)
    with torch.no_grad():
        order = errors.argsort(dim=1, descending=True)
        steps = torch.empty_like(errors).scatter_(1, order, _jaccard_steps(truth.gather(1, order), errors.dtype))
        if len(steps) == len(present):
            steps = steps.where(present[:, None], 0)
    return (errors * steps).sum() / present.sum().clamp(min=1)


def _jaccard_steps(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much one minus the IoU grows with each pixel that turns wrong, from none to all: ``truth`` ``[K, P]``, in
    the order of turning, gives ``[K, P]``.

    These are the differences of algorithm 1 in arXiv 1705.08790, in closed form: between numbers as close as these, a
    float32 difference would have few digits left. With intersection I and union U after a pixel turned wrong, a pixel
    of the class took 1 from I, a step of 1 / U; any other added 1 to U, a step of I / (U - 1) - I / U.
    """
    turned = truth.cumsum(dim=1, dtype=torch.int32)
    num_true = turned[:, -1:]
    intersection = num_true - turned
    count = torch.arange(1, truth.shape[1] + 1, dtype=torch.int32, device=truth.device)
    union = (intersection + count).to(dtype)
    return torch.where(truth, 1 / union, intersection / (union * (union - 1)))


def _one_hot(labels: Tensor, num_classes: int, dim: int) -> Tensor:
    """Booleans, an eighth of the int64 that torch's one_hot would take; all False at ignored."""
    classes = torch.arange(num_classes, device=labels.device)
    return labels.unsqueeze(dim) == classes.view(-1, *[1] * (labels.ndim - dim))
