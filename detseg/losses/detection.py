"""The losses of detection heads, from raw maps and padded ground truth to a :class:`LossSum`.

Shapes: ``B`` images, ``M`` ground truths per image including padding, ``A`` anchor points, ``C`` classes, ``K`` bins,
``P`` positive points of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.assigners import Assignment, one_to_one_assign, simota_assign, task_aligned_assign
from detseg.losses.base import LossSum
from detseg.losses.checks import on_host, require_positions
from detseg.ops.boxes import ciou, iou, xyxy_to_cxcywh
from detseg.ops.decode import (
    anchor_points,
    boxes_from_distances,
    decode_direct_boxes,
    distances_to_sides,
    expected_bin,
    flatten_levels,
    level_sizes,
)


@runtime_checkable
class DetectionLoss(Protocol):
    """What every entry of ``DETECTION_LOSSES`` builds; ``head_kind`` is the kind of the heads whose output it takes."""

    head_kind: ClassVar[str]

    def __call__(self, levels: Sequence[Tensor], boxes_xyxy: Tensor, labels: Tensor) -> LossSum:
        """Raw maps ``[B, channels, H, W]``, fine to coarse, against boxes ``[B, M, 4]`` (xyxy, input pixels) with
        class positions ``[B, M]`` int64, -1 where there is no object. Computed in float32, also under autocast.

        Raises ValueError where shapes or labels do not fit the model.
        """
        ...


@runtime_checkable
class DetectionLossConfig(Protocol):
    """A frozen dataclass, what every entry of ``DETECTION_LOSSES`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> DetectionLoss:
        """The loss for a model of these dimensions."""


@dataclass(frozen=True)
class TALSettings:
    """Gains and assignment of :class:`TALLoss`."""

    box: float = 7.5
    """Gain of the CIoU loss."""
    cls: float = 0.5
    """Gain of the cross-entropy of the classes."""
    dfl: float = 1.5
    """Gain of the distribution focal loss of the sides; where these are plain numbers (``reg_max: 1``), of their
    distance from the true ones."""
    top_k: int = 10
    """Candidates that each object claims, by alignment."""
    alpha: float = 0.5
    """Exponent of the score in the alignment, ``score ** alpha * IoU ** beta``."""
    beta: float = 6.0
    """Exponent of the overlap in the alignment."""
    min_target: float = 0.0
    """The least target score of each object's best candidate, see ``task_aligned_assign``; 0 is YOLOv8."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_target <= 1:
            raise ValueError(f"min_target must lie between 0 and 1, got {self.min_target}")


@dataclass(frozen=True)
class TALLossConfig(TALSettings):
    """Task-aligned assignment with CIoU, DFL and cross-entropy, for the ``dfl`` head: gains and assignment."""

    name: str = "tal"

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> TALLoss:
        """The loss for a model of these dimensions."""
        return TALLoss(num_classes, strides, reg_max, self)


@dataclass(frozen=True)
class SimOTALossConfig:
    """SimOTA with IoU loss, objectness and cross-entropy, for the ``yolox`` head: gains and assignment."""

    name: str = "simota"
    iou: float = 5.0
    """Gain of the IoU loss."""
    obj: float = 1.0
    """Gain of the objectness."""
    cls: float = 1.0
    """Gain of the cross-entropy of the classes."""
    l1: float = 0.0
    """Gain of an additional L1 term on the raw box outputs, which YOLOX switches on for its last epochs."""
    radius: float = 1.5
    """Strides around an object's center, on both axes, within which its candidates lie."""
    candidates: int = 10
    """How many best IoUs are summed up to the number of candidates that an object claims."""

    def build(self, num_classes: int, strides: Sequence[int], reg_max: int = 16) -> SimOTALoss:
        """The loss for a model of these dimensions; a YOLOX head has no ``reg_max``."""
        return SimOTALoss(num_classes, strides, self)


class Positives(NamedTuple):
    """The ``P`` places that answer for an object: ``image``, ``point`` and the object's ``slot`` in its image, int64
    ``[P]``, and what their class scores should be, ``target_score`` ``[P]``."""

    image: Tensor
    point: Tensor
    slot: Tensor
    target_score: Tensor


@dataclass(frozen=True)
class TALLoss:
    """The loss of a ``dfl`` head (arXiv 2108.07755, 2006.04388, 1911.08287); a :class:`DetectionLoss`.

    Parts ``box``, ``cls`` and ``dfl``, or with ``reg_max`` 1 ``l1``, see :func:`relative_distance`; the normalizer is
    the sum of the target scores. ``one_to_one``: each object has one prediction, whatever ``top_k`` is.
    """

    head_kind: ClassVar[str] = "dfl"

    num_classes: int
    strides: Sequence[int]
    reg_max: int = 16
    config: TALSettings = field(default_factory=TALSettings)
    one_to_one: bool = False

    def __call__(self, levels: Sequence[Tensor], boxes_xyxy: Tensor, labels: Tensor) -> LossSum:
        """See :class:`DetectionLoss`; ``levels`` have ``4 * reg_max + num_classes`` channels."""
        return self.with_positives(levels, boxes_xyxy, labels)[0]

    def with_positives(self, levels: Sequence[Tensor], boxes_xyxy: Tensor, labels: Tensor) -> tuple[LossSum, Positives]:
        """The loss, and which places were assigned to which objects."""
        num_box_channels = 4 * self.reg_max
        _check(levels, num_box_channels + self.num_classes, self.num_classes, boxes_xyxy, labels)
        with torch.autocast(levels[0].device.type, enabled=False):
            points_xy, stride = anchor_points(level_sizes(levels), self.strides, device=levels[0].device)
            raw = flatten_levels(levels).float()
            raw_boxes, class_logits = raw.split_with_sizes((num_box_channels, self.num_classes), dim=1)
            boxes_xyxy = boxes_xyxy.float()
            with torch.no_grad():
                distances_ltrb = self._distances(torch.unflatten(raw_boxes, 1, (4, self.reg_max)), dim=2)
                predicted_xyxy = boxes_from_distances(points_xy, distances_ltrb.transpose(1, 2) * stride[:, None])
            assignment = self._assign(predicted_xyxy, class_logits.transpose(1, 2), points_xy, boxes_xyxy, labels)
            image, point = torch.nonzero(assignment.foreground, as_tuple=True)
            slot, weight = assignment.index[image, point], assignment.target_scores[image, point]

            positive = raw[image, :, point]
            bin_logits = torch.unflatten(positive[:, :num_box_channels], 1, (4, self.reg_max))
            positive_logits = _select(positive[:, num_box_channels:], labels[image, slot])
            scale = stride[point, None]
            cells_xy, target_xyxy = points_xy[point] / scale, boxes_xyxy[image, slot] / scale
            distances_ltrb = self._distances(bin_logits, dim=2)
            box = ((1 - ciou(boxes_from_distances(cells_xy, distances_ltrb), target_xyxy)) * weight).sum()
            true_ltrb = distances_to_sides(cells_xy, target_xyxy)
            if self.reg_max > 1:
                name, sides = "dfl", distribution_focal_loss(bin_logits, true_ltrb)
            else:
                name, sides = "l1", relative_distance(distances_ltrb, true_ltrb)
            cls = _sum_cross_entropy(class_logits, positive_logits, weight)
        gains = self.config
        parts = {"box": gains.box * box, "cls": gains.cls * cls, name: gains.dfl * (sides * weight).sum()}
        return LossSum(parts, assignment.target_scores.sum()), Positives(image, point, slot, weight)

    def _distances(self, bin_logits: Tensor, dim: int) -> Tensor:
        """In strides, without the dimension ``dim`` of the bins."""
        return expected_bin(bin_logits, dim) if self.reg_max > 1 else bin_logits.squeeze(dim)

    def _assign(self, *given: Tensor) -> Assignment:
        alpha, beta, min_target = self.config.alpha, self.config.beta, self.config.min_target
        if self.one_to_one:
            return one_to_one_assign(*given, alpha=alpha, beta=beta, min_target=min_target)
        return task_aligned_assign(*given, top_k=self.config.top_k, alpha=alpha, beta=beta, min_target=min_target)


@dataclass(frozen=True)
class SimOTALoss:
    """The loss of a ``yolox`` head (arXiv 2107.08430); a :class:`DetectionLoss`.

    Parts ``iou``, ``obj``, ``cls`` and, where its gain is not 0, ``l1``; the normalizer is the number of positives.
    """

    head_kind: ClassVar[str] = "yolox"

    num_classes: int
    strides: Sequence[int]
    config: SimOTALossConfig = field(default_factory=SimOTALossConfig)

    def __call__(self, levels: Sequence[Tensor], boxes_xyxy: Tensor, labels: Tensor) -> LossSum:
        """See :class:`DetectionLoss`; ``levels`` have ``4 + 1 + num_classes`` channels."""
        _check(levels, 5 + self.num_classes, self.num_classes, boxes_xyxy, labels)
        with torch.autocast(levels[0].device.type, enabled=False):
            points_xy, stride = anchor_points(level_sizes(levels), self.strides, device=levels[0].device)
            raw = flatten_levels(levels).float()
            boxes_xyxy = boxes_xyxy.float()
            objectness = raw[:, 4]
            with torch.no_grad():
                predicted_xyxy = decode_direct_boxes(raw[:, :4].transpose(1, 2), points_xy, stride)
            assignment = simota_assign(
                predicted_xyxy,
                raw[:, 5:].transpose(1, 2),
                objectness,
                points_xy,
                stride,
                boxes_xyxy,
                labels,
                radius=self.config.radius,
                num_candidates=self.config.candidates,
            )
            image, point = torch.nonzero(assignment.foreground, as_tuple=True)
            slot, overlap = assignment.index[image, point], assignment.target_scores[image, point]

            positive = raw[image, :, point]
            raw_xywh, raw_objectness, positive_classes = positive.split_with_sizes((4, 1, self.num_classes), dim=1)
            positive_logits = _select(positive_classes, labels[image, slot])
            target_xyxy = boxes_xyxy[image, slot]
            positive_xyxy = decode_direct_boxes(raw_xywh, points_xy[point], stride[point])
            gains = self.config
            parts = {
                "iou": gains.iou * (1 - iou(positive_xyxy, target_xyxy).square()).sum(),
                "obj": gains.obj * _sum_cross_entropy(objectness, raw_objectness, 1.0),
                "cls": gains.cls * _sum_cross_entropy(positive_classes, positive_logits, overlap),
            }
            if gains.l1:
                target = direct_targets(target_xyxy, points_xy[point], stride[point])
                parts["l1"] = gains.l1 * (raw_xywh - target).abs().sum()
        return LossSum(parts, assignment.foreground.sum(dtype=torch.float32))


def distribution_focal_loss(bin_logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss (arXiv 2006.04388, equation 6), mean over the sides.

    Cross-entropy of ``bin_logits`` ``[..., 4, K]`` on the two bins next to each of the true ``distances`` ``[..., 4]``,
    in strides, weighted by nearness. Distances beyond the bins count as the last one reached. Returns ``[...]``.
    """
    distances = distances.clamp(0, bin_logits.shape[-1] - 1 - 0.01)
    lower = distances.floor()
    log_probability = bin_logits.log_softmax(dim=-1)
    neighbors = torch.stack((lower, lower + 1), dim=-1).long()
    weights = torch.stack((lower + 1 - distances, distances - lower), dim=-1)
    return -(log_probability.gather(-1, neighbors) * weights).sum(dim=-1).mean(dim=-1)


def relative_distance(distances_ltrb: Tensor, true_ltrb: Tensor) -> Tensor:
    """How far predicted sides are from the true ones, both ``[..., 4]`` distances to left, top, right and bottom in one
    unit: their L1 distance over the width or height of the true box, at least one unit, mean over the sides: ``[...]``.

    Unlike the IoU it tells a box that does not overlap where to go; over the size, so that large objects do not
    outweigh small ones.
    """
    size = (true_ltrb[..., :2] + true_ltrb[..., 2:]).clamp(min=1)
    return ((distances_ltrb - true_ltrb).abs() / torch.cat((size, size), dim=-1)).mean(dim=-1)


def direct_targets(boxes_xyxy: Tensor, points_xy: Tensor, stride: Tensor) -> Tensor:
    """The raw x, y, width, height ``[..., 4]`` that :func:`decode_direct_boxes` turns into the given boxes."""
    stride = stride[..., None]
    center, size = xyxy_to_cxcywh(boxes_xyxy).chunk(2, dim=-1)
    return torch.cat(((center - points_xy) / stride + 0.5, (size / stride + 1e-8).log()), dim=-1)


def _sum_cross_entropy(logits: Tensor, positive_logits: Tensor, targets: Tensor | float) -> Tensor:
    """Binary cross-entropy, summed, of all ``logits`` against zero except the positive ones, whose targets are given.

    Cross-entropy with logits x and targets t is softplus(x) - x * t: no dense tensor of targets is needed.
    """
    return F.softplus(logits).sum() - (positive_logits * targets).sum()


def _select(class_logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of each row's class: ``[P, C]`` and ``[P]`` give ``[P]``."""
    return class_logits.gather(1, labels[:, None])[:, 0]


def _check(levels: Sequence[Tensor], num_channels: int, num_classes: int, boxes_xyxy: Tensor, labels: Tensor) -> None:
    for level in levels:
        if level.ndim != 4 or level.shape[1] != num_channels:
            raise ValueError(
                f"a loss for {num_classes} classes needs maps [B, {num_channels}, H, W], got {list(level.shape)}; "
                "build the loss with the model's classes and reg_max"
            )
    num_images = len(levels[0])
    if labels.ndim != 2 or len(labels) != num_images or boxes_xyxy.shape != (*labels.shape, 4):
        raise ValueError(
            f"{num_images} images need labels [{num_images}, M] and boxes [{num_images}, M, 4], "
            f"got {list(labels.shape)} and {list(boxes_xyxy.shape)}"
        )
    if on_host(labels):
        require_positions(labels, num_classes)
