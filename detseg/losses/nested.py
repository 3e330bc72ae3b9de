"""The loss of volume segmentation where classes are regions that may lie in each other, each with a sigmoid of its own
(nnU-Net's region-based training: Isensee et al., "nnU-Net for Brain Tumor Segmentation", 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.base import LossSum
from detseg.losses.checks import require_logits_with_labels
from detseg.losses.dice import DiceLossConfig, at_size
from detseg.structures import IGNORE_INDEX


class RegionLoss:
    """Dice and binary cross-entropy of each region, both as :class:`detseg.losses.dice.DiceLoss` sums and weighs them.

    ``regions[k - 1]`` are the class positions that make region ``k``; logit 0, of the background, is not looked at.

    Raises:
        ValueError: there are class weights, which regions do not have.
    """

    def __init__(self, config: DiceLossConfig, regions: Sequence[Sequence[int]]) -> None:
        if config.class_weights is not None:
            raise ValueError(
                "class_weights are for classes that exclude each other, and these are regions: leave them out"
            )
        self.config = config
        self._members = torch.zeros(IGNORE_INDEX + 1, len(regions), dtype=torch.bool)
        for region, positions in enumerate(regions):
            self._members[list(positions), region] = True

    def __call__(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> LossSum:
        """Logits ``[B, 1 + R, D, H, W]``, with deep supervision several, the finest first, against class positions
        ``[B, D, H, W]`` uint8 with ``IGNORE_INDEX``.

        Raises:
            ValueError: shapes or labels do not fit.
        """
        levels = (logits,) if isinstance(logits, Tensor) else tuple(logits)
        num_classes = 1 + self._members.shape[1]
        require_logits_with_labels(levels[0], labels, num_classes, ("D", "H", "W"), "label volume")
        self._members = self._members.to(labels.device)
        total_weight = sum(0.5**level for level in range(len(levels)))
        parts: dict[str, Tensor] = {}
        with torch.autocast(labels.device.type, enabled=False):
            for level, level_logits in enumerate(levels):
                level_labels = labels if level == 0 else at_size(labels, level_logits.shape[2:])
                for name, part in self._parts(level_logits[:, 1:].float(), level_labels).items():
                    parts[name] = parts.get(name, 0) + 0.5**level / total_weight * part
        return LossSum(parts, (labels.flatten(1).amin(1) != IGNORE_INDEX).sum().float())

    def _parts(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sums over the samples at one level, of logits ``[B, R, D, H, W]``."""
        config = self.config
        logits, flat = logits.flatten(2), labels.flatten(1)
        truth = self._members[flat.long()].movedim(2, 1).to(logits.dtype)
        labeled = (flat != IGNORE_INDEX).to(logits.dtype)[:, None]
        has_labels = (flat.amin(1) != IGNORE_INDEX).to(logits.dtype)
        parts: dict[str, Tensor] = {}
        if config.dice:
            probability = logits.sigmoid() * labeled
            numerator = 2 * (probability * truth).sum(2)
            denominator = (probability.square() if config.squared else probability).sum(2) + truth.sum(2)
            if config.batch:
                numerator, denominator = numerator.sum(0, keepdim=True), denominator.sum(0, keepdim=True)
            coefficients = (numerator + config.smooth_numerator) / (denominator + config.smooth_denominator)
            parts["dice"] = config.dice * ((1 - coefficients.mean(1)) * has_labels).sum()
        if config.cross_entropy:
            losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1) * labeled[:, 0]
            parts["cross_entropy"] = config.cross_entropy * (losses.sum(1) / labeled.sum((1, 2)).clamp(min=1)).sum()
        return parts
