"""Boxes as tensors ``[..., 4]``: conversion between formats, areas, and measures of overlap.

Formats, always part of a name: ``xyxy`` is (left, top, right, bottom), ``cxcywh`` (center x, center y, width, height).
Unless a function says otherwise it takes ``xyxy`` boxes in any unit, with left <= right and top <= bottom; a box
without area is allowed and overlaps nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-7


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Corners ``[..., 4]`` -> centers and sizes ``[..., 4]``."""
    top_left, bottom_right = boxes_xyxy.chunk(2, dim=-1)
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centers and sizes ``[..., 4]`` -> corners ``[..., 4]``."""
    center, size = boxes_cxcywh.chunk(2, dim=-1)
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Areas ``[...]`` of the boxes ``[..., 4]``."""
    left, top, right, bottom = boxes_xyxy.unbind(dim=-1)
    return (right - left) * (bottom - top)


def box_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """Intersection over union of every one of ``[..., N, 4]`` with every one of ``[..., M, 4]``: ``[..., N, M]``."""
    return iou(boxes_xyxy.unsqueeze(-2), others_xyxy.unsqueeze(-3))


def iou(boxes_xyxy: Tensor, others_xyxy: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Intersection over union of pairs of boxes: ``[..., 4]`` and ``[..., 4]``, broadcast, give ``[...]``.

    Two boxes without area have 0, even where they coincide.
    """
    intersection, union = _intersection_and_union(boxes_xyxy, others_xyxy)
    return intersection / union.clamp(min=epsilon)


def ciou(boxes_xyxy: Tensor, others_xyxy: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Complete IoU of pairs of boxes, at most 1: ``[..., 4]`` and ``[..., 4]``, broadcast, give ``[...]``.

    IoU minus the squared distance of the centers over the squared diagonal of the enclosing box, minus a weighted
    difference of the aspect ratios (arXiv 1911.08287, equations 6 to 11). The weight carries no gradient.
    """
    intersection, union = _intersection_and_union(boxes_xyxy, others_xyxy)
    overlap = intersection / (union + epsilon)

    width, height = _enclosing_size(boxes_xyxy, others_xyxy)
    doubled_offset = boxes_xyxy[..., :2] + boxes_xyxy[..., 2:] - others_xyxy[..., :2] - others_xyxy[..., 2:]
    distance = doubled_offset.square().sum(dim=-1) / 4 / (width.square() + height.square() + epsilon)

    angle_difference = _aspect_angle(boxes_xyxy, epsilon) - _aspect_angle(others_xyxy, epsilon)
    aspect = (4 / math.pi**2) * angle_difference.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + epsilon)
    return overlap - distance - weight * aspect


def _intersection_and_union(boxes_xyxy: Tensor, others_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    left, top, right, bottom = boxes_xyxy.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = others_xyxy.unbind(dim=-1)
    width = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp(min=0)
    height = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp(min=0)
    intersection = width * height
    return intersection, box_area(boxes_xyxy) + box_area(others_xyxy) - intersection


def _enclosing_size(boxes_xyxy: Tensor, others_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    left, top, right, bottom = boxes_xyxy.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = others_xyxy.unbind(dim=-1)
    width = torch.maximum(right, other_right) - torch.minimum(left, other_left)
    return width, torch.maximum(bottom, other_bottom) - torch.minimum(top, other_top)


def _aspect_angle(boxes_xyxy: Tensor, epsilon: float) -> Tensor:
    left, top, right, bottom = boxes_xyxy.unbind(dim=-1)
    return torch.atan((right - left) / (bottom - top + epsilon))
