"""The loss of volume segmentation: soft Dice as in V-Net or in its usual variant, with cross-entropy beside it.

Shapes: ``B`` volumes or patches of them, the samples; ``C`` classes, of which position 0 is the background; ``D``,
``H``, ``W``, the axes of a network input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.base import LossSum
from detseg.losses.checks import require_class_weights, require_logits_with_labels
from detseg.losses.pixelwise import cross_entropy, pixel_weights
from detseg.losses.regions import region_sums
from detseg.structures import IGNORE_INDEX


@dataclass(frozen=True)
class DiceLossConfig:
    """Weights of the two terms and their settings; a term of weight 0 is not computed.

    The Dice coefficient of a class is ``(2 * sum(p * t) + smooth_numerator) / (sum(p) + sum(t) + smooth_denominator)``
    over labeled voxels, with probability p and truth t of 0 or 1.

    The smooth terms decide what a class is worth that no voxel of the truth holds: with the small default it costs
    nearly 1 until its probabilities sum up to less than them, and there is next to no gradient toward that; with terms
    of the order of a structure's voxels it costs little. An equal numerator and denominator make an empty prediction of
    an empty class perfect.
    """

    name: str = "dice"
    dice: float = 1.0
    """Weight of the Dice term."""
    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    squared: bool = False
    """Puts sums of squares in the denominator, as V-Net does (arXiv 1606.04797, section 3)."""
    batch: bool = False
    """Takes the sums over all samples of a batch together, one coefficient for each class, which small classes of which
    few patches hold anything need; otherwise each sample has its own."""
    include_background: bool = False
    """Counts class 0 as one more class."""
    smooth_numerator: float = 1e-5
    """Added to the numerator of the Dice coefficient, in voxels."""
    smooth_denominator: float = 1e-5
    """Added to the denominator, in voxels; large terms make a class that a patch does not hold cost little."""
    class_weights: tuple[float, ...] | None = None
    """One number per class, for the cross-entropy only; null: all alike."""

    def __post_init__(self) -> None:
        for name in ("dice", "cross_entropy", "smooth_numerator"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        if not self.dice and not self.cross_entropy:
            raise ValueError("dice and cross_entropy are both 0; give at least one of them a weight above 0")
        if not 0 < self.smooth_denominator < math.inf:
            raise ValueError(
                f"smooth_denominator must be a finite number above 0, got {self.smooth_denominator}: "
                "a class that is neither true nor predicted would have no coefficient"
            )
        if self.class_weights is not None:
            require_class_weights(self.class_weights)
            if not self.cross_entropy:
                raise ValueError("class_weights are those of the cross-entropy, whose weight is 0; leave them out")

    def build(self, num_classes: int) -> DiceLoss:
        """The loss for a model with so many classes, the background included.

        Raises:
            ValueError: there is no class beside the background, or another number of class weights.
        """
        return DiceLoss(num_classes, self)


@dataclass
class DiceLoss:
    """Weighted sum of the two terms; parts ``dice`` and ``cross_entropy``, those whose weight is not 0.

    Each part is a sum over the samples, and the normalizer is the number of samples with a labeled voxel; one without
    counts nothing, and ignored voxels count nowhere. The dice part of a sample is one minus the mean of its
    coefficients, its cross-entropy the mean over its labeled voxels, weighted by their classes. With ``batch`` there is
    only one mean of coefficients, times the number of samples: then several small batches are not exactly one large.

    The total is that of MONAI's ``DiceLoss(softmax=True, to_onehot_y=True)`` and ``DiceCELoss``, gradients too, with
    these differences. MONAI's ``weight`` is given to both terms, ``class_weights`` only to the cross-entropy; MONAI
    averages the cross-entropy over the voxels of the batch, here each sample counts alike, which is another number
    where class weights or ignored voxels make samples unlike. And MONAI with an ``ignore_index`` counts a sample of
    ignored only as one without any loss, here it does not count.
    """

    num_classes: int
    config: DiceLossConfig = field(default_factory=DiceLossConfig)

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"a Dice loss needs the background and at least one more class, got {self.num_classes}")
        self._class_weights: Tensor | None = None
        if self.config.class_weights is not None:
            require_class_weights(self.config.class_weights, self.num_classes)
            self._class_weights = torch.tensor(self.config.class_weights, dtype=torch.float32)

    def __call__(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> LossSum:
        """Logits ``[B, C, D, H, W]`` against class positions ``[B, D, H, W]`` uint8 with ``IGNORE_INDEX``. Computed in
        float32, also under autocast.

        With deep supervision the logits are several, of the size of the labels first, then coarser. Each is judged by
        the labels at the centers of its voxels, and weighs half as much as the one before it; the weights sum up to 1.
        These are nnU-Net's, which also leaves out the coarsest.

        Raises:
            ValueError: shapes or labels do not fit.
        """
        levels = (logits,) if isinstance(logits, Tensor) else tuple(logits)
        self._check(levels, labels)
        if self._class_weights is not None:
            self._class_weights = self._class_weights.to(labels.device)
        total_weight = sum(0.5**level for level in range(len(levels)))
        parts: dict[str, Tensor] = {}
        with torch.autocast(labels.device.type, enabled=False):
            for level, level_logits in enumerate(levels):
                level_labels = labels if level == 0 else at_size(labels, level_logits.shape[2:])
                for name, part in self._parts(level_logits.float().log_softmax(dim=1), level_labels).items():
                    parts[name] = parts.get(name, 0) + 0.5**level / total_weight * part
        return LossSum(parts, _has_labels(labels).sum().float())

    def _check(self, levels: Sequence[Tensor], labels: Tensor) -> None:
        if not levels:
            raise ValueError("got an empty sequence of logits; the loss needs those of one level at least")
        require_logits_with_labels(levels[0], labels, self.num_classes, ("D", "H", "W"), "label volume")
        for level in levels[1:]:
            same = level.ndim == 5 and level.shape[:2] == levels[0].shape[:2]
            if not same or any(size > limit for size, limit in zip(level.shape[2:], labels.shape[1:], strict=True)):
                raise ValueError(
                    f"deep supervision needs logits [{len(labels)}, {self.num_classes}, D, H, W] no larger than the "
                    f"first, {list(levels[0].shape)}; got {list(level.shape)}"
                )

    def _parts(self, log_probability: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sums over the samples at one level."""
        config = self.config
        parts: dict[str, Tensor] = {}
        if config.dice:
            losses = self._dice(log_probability.exp(), labels)
            parts["dice"] = config.dice * (losses * _has_labels(labels)).sum()
        if config.cross_entropy:
            targets = labels.long()
            losses = cross_entropy(log_probability, targets, self._class_weights).flatten(1).sum(1)
            weights = pixel_weights(targets, self._class_weights).flatten(1).sum(1)
            parts["cross_entropy"] = config.cross_entropy * (losses / torch.where(weights > 0, weights, 1)).sum()
        return parts

    def _dice(self, probability: Tensor, labels: Tensor) -> Tensor:
        """One minus the mean coefficient of each sample ``[B]``, or of them all together ``[1]``."""
        config = self.config
        intersection, predicted, true = region_sums(probability, labels, config.squared)
        numerator, denominator = 2 * intersection, predicted + true
        if config.batch:
            numerator, denominator = numerator.sum(0, keepdim=True), denominator.sum(0, keepdim=True)
        coefficients = (numerator + config.smooth_numerator) / (denominator + config.smooth_denominator)
        return 1 - coefficients[:, 0 if config.include_background else 1 :].mean(1)


def _has_labels(labels: Tensor) -> Tensor:
    """Which samples ``[B]`` have a voxel with a class, all of which are below ``IGNORE_INDEX``."""
    return labels.flatten(1).amin(1) != IGNORE_INDEX


def at_size(labels: Tensor, size: Sequence[int]) -> Tensor:
    """``labels`` ``[B, D, H, W]`` at the centers of the voxels of a coarser grid."""
    return F.interpolate(labels[:, None], size=tuple(size), mode="nearest-exact")[:, 0]
