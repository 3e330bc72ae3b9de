"""The loss of a detector that gives masks: that of its boxes, and of the masks of what was assigned to objects.

Shapes: ``B`` images, ``M`` ground truths per image including padding, ``K`` prototypes of ``h`` x ``w`` cells, ``P``
positive points of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.base import LossSum
from detseg.losses.detection import TALLoss, TALSettings
from detseg.ops.decode import flatten_levels

_BITS = 4
LEVELS = 2**_BITS - 1
"""Steps in which the share of a cell that lies in an object is known."""


@runtime_checkable
class InstanceLoss(Protocol):
    """What every entry of ``INSTANCE_LOSSES`` builds; ``head_kind`` is the kind of the heads whose output it takes."""

    head_kind: ClassVar[str]

    def __call__(
        self, levels: Sequence[Tensor], prototypes: Tensor, boxes_xyxy: Tensor, labels: Tensor, masks: Tensor
    ) -> LossSum:
        """Raw maps ``[B, channels, H, W]``, fine to coarse, with coefficients last, and ``prototypes``
        ``[B, K, h, w]``, against boxes ``[B, M, 4]`` (xyxy, input pixels) with class positions ``[B, M]`` int64, -1
        where there is no object, and what share of each of the prototypes' cells lies in the object, as
        :func:`pack_shares` packs them.

        Raises ValueError where shapes or labels do not fit the model.
        """
        ...


@runtime_checkable
class InstanceLossConfig(Protocol):
    """A frozen dataclass, what every entry of ``INSTANCE_LOSSES`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> InstanceLoss:
        """The loss for a model of these dimensions."""


@dataclass(frozen=True)
class TALMasksLossConfig(TALSettings):
    """The loss ``tal`` of the boxes, and cross-entropy of the masks' cells, for the ``dfl_masks`` head."""

    name: str = "tal_masks"
    mask: float = 7.5
    """Gain of the cross-entropy of the masks."""

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> TALMasksLoss:
        """The loss for a model of these dimensions."""
        return TALMasksLoss(TALLoss(num_classes, strides, reg_max, self), self.mask)


@dataclass(frozen=True)
class TALMasksLoss:
    """YOLOv8-seg's loss; an :class:`InstanceLoss`.

    Parts are those of :class:`detseg.losses.detection.TALLoss` and ``mask``: the mean of :func:`mask_loss` over the
    positives whose target score is not 0, times the normalizer, which is the sum of the target scores. So the loss of a
    batch has that mean. Of several batches that make one step, the means count by the batches' normalizers, while all
    other parts are as if they were one batch.
    """

    head_kind: ClassVar[str] = "dfl_masks"

    boxes: TALLoss
    gain: float

    def __call__(
        self, levels: Sequence[Tensor], prototypes: Tensor, boxes_xyxy: Tensor, labels: Tensor, masks: Tensor
    ) -> LossSum:
        """See :class:`InstanceLoss`; ``levels`` have ``4 * reg_max + num_classes + K`` channels."""
        num_images, num_prototypes, height, width = prototypes.shape
        if masks.shape != (*labels.shape, height, -(-width // 2)) or masks.dtype != torch.uint8:
            raise ValueError(
                f"prototypes {list(prototypes.shape)} with labels {list(labels.shape)} need packed masks "
                f"{[*labels.shape, height, -(-width // 2)]} of uint8, got {list(masks.shape)} of {masks.dtype}"
            )
        found, positives = self.boxes.with_positives(
            [level[:, :-num_prototypes] for level in levels], boxes_xyxy, labels
        )
        with torch.autocast(prototypes.device.type, enabled=False):
            prototypes = prototypes.float()
            coefficients = flatten_levels([level[:, -num_prototypes:] for level in levels]).float()
            scale = height / (levels[0].shape[2] * self.boxes.strides[0])
            # Without any object both have a gradient all the same, which training on several devices waits for.
            total = (prototypes.sum() + coefficients.sum()) * 0
            is_found = positives.target_score > 0  # a prediction that overlaps the object
            (found_at,) = torch.nonzero(is_found, as_tuple=True)
            counts = torch.zeros_like(positives.image[:1]).repeat(num_images)
            counts = counts.scatter_add(0, positives.image, is_found.long())
            for image, mine in enumerate(torch.split(found_at, counts.tolist())):  # they are in the order of the images
                slot = positives.slot[mine]
                total = (
                    total
                    + mask_loss(
                        coefficients[image, :, positives.point[mine]].T,
                        prototypes[image],
                        boxes_xyxy[image, slot].float() * scale,
                        unpack_shares(masks[image][slot], width),
                    ).sum()
                )
            mean = total / is_found.sum().clamp(min=1)
        return LossSum({**found.parts, "mask": self.gain * mean * found.normalizer.clamp(min=1)}, found.normalizer)


def mask_loss(coefficients: Tensor, prototypes: Tensor, boxes_xyxy: Tensor, shares: Tensor) -> Tensor:
    """Binary cross-entropy ``[P]`` of the masks that ``coefficients`` ``[P, K]`` make of ``prototypes`` ``[K, h, w]``
    with the share of each cell that lies in the object, ``[P, h, w]`` from 0 to 1; summed over the cells whose first
    corner is in the box ``[P, 4]`` (xyxy, in cells), over the area of the box, at least one cell (arXiv 1904.02689,
    section 3.1)."""
    logits = torch.einsum("pk,khw->phw", coefficients, prototypes)
    losses = F.softplus(logits) - logits * shares
    height, width = prototypes.shape[1:]
    left, top, right, bottom = boxes_xyxy[:, :, None].unbind(dim=1)
    x, y = (torch.arange(side, device=logits.device) for side in (width, height))
    is_inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    area = ((right - left) * (bottom - top))[:, 0]
    return (losses * is_inside).sum(dim=(1, 2)) / area.clamp(min=1)


def pack_shares(shares: Tensor) -> Tensor:
    """Shares of cells ``[..., h, w]``, from 0 to 1, -> ``[..., h, ceil(w / 2)]`` uint8: in steps of 1/15, two cells of
    a row in a byte, the first in its lower half."""
    steps = (F.pad(shares.float(), (0, shares.shape[-1] % 2)) * LEVELS).round().byte()
    packed: Tensor = steps[..., ::2] | (steps[..., 1::2] << _BITS)
    return packed


def unpack_shares(packed: Tensor, width: int) -> Tensor:
    """The inverse of :func:`pack_shares` for ``width`` cells, float32."""
    steps = torch.stack([packed & LEVELS, packed >> _BITS], dim=-1).flatten(-2)
    shares: Tensor = steps[..., :width].float() / LEVELS
    return shares
