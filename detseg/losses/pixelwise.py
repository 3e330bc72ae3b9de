"""Losses that judge every pixel by itself, and the choice of the pixels worth learning from.

Shapes: ``B`` images, ``C`` classes, ``H`` rows, ``W`` columns. ``labels`` ``[B, H, W]`` are int64 class positions,
``IGNORE_INDEX`` where there is none; every loss and every weight is 0 there. ``log_probability`` is the log-softmax
``[B, C, H, W]`` of the logits, ``class_weights`` are ``[C]``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.checks import on_host
from detseg.structures import IGNORE_INDEX


def pixel_weights(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """``[B, H, W]`` float32: the weight of each pixel's class, 1 where there are no class weights; 0 at ignored."""
    if class_weights is None:
        return (labels != IGNORE_INDEX).float()
    table = F.pad(class_weights, (0, IGNORE_INDEX + 1 - len(class_weights)))
    return table[labels]


def cross_entropy(
    log_probability: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of each pixel ``[B, H, W]``, weighted by its class.

    Smoothing by s makes the target of a pixel ``1 - s`` for its class plus ``s / C`` for every class (arXiv
    1512.00567), each class's term under its own weight, as torch has it. The sum over the pixels, divided by the sum of
    their :func:`pixel_weights`, equals ``torch.nn.functional.cross_entropy``.
    """
    loss = F.nll_loss(log_probability, labels, class_weights, ignore_index=IGNORE_INDEX, reduction="none")
    if label_smoothing == 0:
        return loss
    num_classes = log_probability.shape[1]
    weights = log_probability.new_ones(num_classes) if class_weights is None else class_weights
    all_classes = -torch.matmul(weights, log_probability.flatten(2)).view_as(labels) / num_classes
    all_classes = all_classes.masked_fill(labels == IGNORE_INDEX, 0)
    return (1 - label_smoothing) * loss + label_smoothing * all_classes


def focal_loss(log_probability: Tensor, labels: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """The focal loss of each pixel ``[B, H, W]`` (arXiv 1708.02002, equation 5, over the softmax of C classes):
    ``-(1 - p) ** gamma * log(p)`` for the probability p of the true class, weighted by the class."""
    loss = F.nll_loss(log_probability, labels, ignore_index=IGNORE_INDEX, reduction="none")
    # Away from 0, where a power below 1 has no finite derivative.
    missing = (-torch.expm1(-loss)).clamp(min=1e-12)
    loss = missing.pow(gamma) * loss
    return loss if class_weights is None else loss * pixel_weights(labels, class_weights)


def hard_pixels(log_probability: Tensor, labels: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Which pixels ``[B, H, W]`` bool are worth learning from (online hard example mining, arXiv 1604.03540, by pixel).

    Those whose true class has a probability below ``threshold``; where they are fewer than the share ``min_kept`` of an
    image's labeled pixels, rounded up, the pixels of the lowest probability until they are as many. Pixels as hard as
    the last of these are all taken, so that the choice does not depend on the order of the pixels. Each image is judged
    by itself, so that it does not depend on the batch.
    """
    with torch.no_grad():
        loss = F.nll_loss(log_probability, labels, ignore_index=IGNORE_INDEX, reduction="none")
        labeled = labels != IGNORE_INDEX
        hard = labeled & (loss > -math.log(threshold))
        if not on_host(labels):
            return _at_least(hard, labeled, loss, min_kept)
        counts = torch.stack((hard.sum((1, 2)), labeled.sum((1, 2))), dim=1).tolist()
        for image, (num_hard, num_labeled) in enumerate(counts):
            num_wanted = math.ceil(num_labeled * min_kept)
            if num_hard < num_wanted:
                losses = loss[image][labeled[image]]
                limit = losses.kthvalue(num_labeled - num_wanted + 1).values
                hard[image] = labeled[image] & (loss[image] >= limit)
    return hard


def _at_least(hard: Tensor, labeled: Tensor, loss: Tensor, min_kept: float) -> Tensor:
    """``hard`` with the share ``min_kept`` of each image's labeled pixels at least, as :func:`hard_pixels` has it, by
    sorting: the host waits for nothing."""
    num_hard, num_labeled = hard.sum((1, 2)), labeled.sum((1, 2))
    num_wanted = (num_labeled.double() * min_kept).ceil().long()
    ordered = loss.where(labeled, -1).flatten(1).sort(dim=1, descending=True).values
    limit = ordered.gather(1, (num_wanted - 1).clamp(min=0)[:, None])
    hardest = labeled & (loss >= limit[:, :, None])
    return torch.where((num_hard < num_wanted)[:, None, None], hardest, hard)
