"""The loss of semantic segmentation: cross-entropy, Dice and Lovasz terms as one :class:`LossSum`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from detseg.losses.base import LossSum
from detseg.losses.checks import require_class_weights, require_logits_with_labels
from detseg.losses.class_weights import WEIGHT_RULES
from detseg.losses.pixelwise import cross_entropy, focal_loss, hard_pixels, pixel_weights
from detseg.losses.regions import lovasz_softmax_loss, soft_dice_loss


@dataclass(frozen=True)
class OHEMConfig:
    """Cross-entropy from hard pixels only, see :func:``detseg.losses.pixelwise.hard_pixels``."""

    threshold: float = 0.7
    """A pixel is hard where its true class has a lower probability than this."""
    min_kept: float = 1 / 16
    """Share of an image's labeled pixels that is kept at least, the hardest."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a probability in (0, 1], got {self.threshold}")
        if not 0 <= self.min_kept <= 1:
            raise ValueError(f"min_kept is a share of an image's pixels in [0, 1], got {self.min_kept}")


@dataclass(frozen=True)
class SegmentationLossConfig:
    """Weights of the terms, and the settings of the cross-entropy; a term of weight 0 is not computed."""

    name: str = "segmentation"
    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    dice: float = 0.0
    """Weight of the Dice term."""
    lovasz: float = 0.0
    """Weight of the Lovasz term."""
    class_weights: Literal["none", "enet", "median_frequency"] | tuple[float, ...] = "none"
    """Weights of the cross-entropy: ``none``, a rule that takes them from the training set, or one number per class."""
    label_smoothing: float = 0.0
    """Share of the truth that is spread evenly over all classes."""
    focal_gamma: float = 0.0
    """Above 0 it makes the cross-entropy a focal loss, which cannot be smoothed as well."""
    ohem: OHEMConfig | None = None
    """Takes the cross-entropy from hard pixels only; null: from all."""

    def __post_init__(self) -> None:
        terms = {name: getattr(self, name) for name in ("cross_entropy", "dice", "lovasz")}
        for name, weight in {**terms, "focal_gamma": self.focal_gamma}.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {weight}")
        if not any(terms.values()):
            raise ValueError("cross_entropy, dice and lovasz are all 0; give at least one term a weight above 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and self.focal_gamma:
            raise ValueError("label_smoothing and focal_gamma exclude each other; set one of them to 0")
        if isinstance(self.class_weights, str):
            if self.class_weights not in ("none", *WEIGHT_RULES):
                allowed = ", ".join(("none", *WEIGHT_RULES))
                raise ValueError(
                    f"class_weights is {self.class_weights!r}; allowed are {allowed}, or a list of numbers"
                )
        else:
            require_class_weights(self.class_weights)
        if not self.cross_entropy:
            defaults = {"class_weights": "none", "label_smoothing": 0.0, "focal_gamma": 0.0, "ohem": None}
            given = [name for name, default in defaults.items() if getattr(self, name) != default]
            if given:
                raise ValueError(
                    f"{', '.join(given)}: settings of the cross-entropy, whose weight is 0; leave them out"
                )

    def build(self, num_classes: int) -> SegmentationLoss:
        """The loss for a model with so many classes.

        Raises:
            ValueError: there is another number of class weights.
        """
        return SegmentationLoss(num_classes, self)


@dataclass
class SegmentationLoss:
    """Weighted sum of the terms; parts ``cross_entropy``, ``dice`` and ``lovasz``, those whose weight is not 0.

    The normalizer is the number of labeled pixels, each weighted by its class, and with OHEM only of those kept; the
    normalized cross-entropy is then that of torch. Dice and Lovasz have one value per image. Each counts by its image's
    share of the normalizer, so that all parts add up over micro-batches exactly, an image of ignored only counts
    nothing, and in images of one size with no ignored, without class weights or OHEM, it is their plain mean.
    """

    num_classes: int
    config: SegmentationLossConfig = field(default_factory=SegmentationLossConfig)

    def __post_init__(self) -> None:
        given = self.config.class_weights
        self.weighting = given if isinstance(given, str) and given != "none" else None
        self._class_weights: Tensor | None = None
        if not isinstance(given, str):
            self.set_class_weights(given)

    weighting: str | None = field(init=False)
    """The rule of :data:`detseg.losses.class_weights.WEIGHT_RULES` whose result :meth:`set_class_weights` waits for."""

    def set_class_weights(self, weights: Sequence[float]) -> None:
        """Weight the cross-entropy of class c by ``weights[c]``.

        Raises:
            ValueError: the number of weights is not that of the classes, or a weight is negative or not finite.
        """
        require_class_weights(weights, self.num_classes)
        self._class_weights = torch.tensor(weights, dtype=torch.float32)

    def __call__(self, logits: Tensor, mask: Tensor) -> LossSum:
        """Logits ``[B, C, H, W]`` against class positions ``[B, H, W]`` uint8 with ``IGNORE_INDEX``. Computed in
        float32, also under autocast.

        Raises:
            ValueError: shapes or labels do not fit, or the class weights that come from the data were not set.
        """
        require_logits_with_labels(logits, mask, self.num_classes, ("H", "W"), "mask")
        if self.weighting is not None and self._class_weights is None:
            raise ValueError(
                f"class_weights: {self.weighting} come from the training set; call set_class_weights first"
            )
        if self._class_weights is not None:
            self._class_weights = self._class_weights.to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            return self._sum(logits.float().log_softmax(dim=1), mask.long())

    def _sum(self, log_probability: Tensor, labels: Tensor) -> LossSum:
        config, class_weights = self.config, self._class_weights
        weights = pixel_weights(labels, class_weights)
        parts: dict[str, Tensor] = {}
        if config.cross_entropy:
            if config.focal_gamma:
                losses = focal_loss(log_probability, labels, config.focal_gamma, class_weights)
            else:
                losses = cross_entropy(log_probability, labels, class_weights, config.label_smoothing)
            if config.ohem is not None:
                kept = hard_pixels(log_probability, labels, config.ohem.threshold, config.ohem.min_kept)
                losses, weights = losses * kept, weights * kept
            parts["cross_entropy"] = config.cross_entropy * losses.sum()
        image_weights = weights.sum((1, 2))
        if config.dice or config.lovasz:
            probability = log_probability.exp()
            if config.dice:
                parts["dice"] = config.dice * (soft_dice_loss(probability, labels) * image_weights).sum()
            if config.lovasz:
                parts["lovasz"] = config.lovasz * (lovasz_softmax_loss(probability, labels) * image_weights).sum()
        return LossSum(parts, image_weights.sum())
