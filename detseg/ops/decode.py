"""From a head's raw maps to boxes in pixels and scores in [0, 1], at anchor points: one per cell of every level.

Shapes: ``B`` images, ``A`` anchor points of all levels, fine to coarse, each level row by row, ``C`` classes, ``K``
bins of a side's distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.ops.boxes import cxcywh_to_xyxy
from detseg.runtime.postprocess.config import HeadKind, count_box_channels


def decode(
    kind: HeadKind, levels: Sequence[Tensor], strides: Sequence[int], reg_max: int = 16
) -> tuple[Tensor, Tensor]:
    """Raw maps of a detector, fine to coarse -> boxes (xyxy, input pixels) ``[B, A, 4]`` and scores ``[B, A, C]``.

    ``dfl`` maps have ``4 * reg_max + C`` channels: the distribution of the distances to left, top, right and bottom,
    then the classes; score = class probability. ``ltrb`` maps have ``4 + C`` channels: these distances as numbers of
    strides, then the classes; one below 0, which nothing keeps a network from giving, counts as 0, so that no side of a
    box comes before its opposite. ``yolox`` maps have ``4 + 1 + C`` channels: x, y, width, height,
    objectness, classes; score = objectness * class probability. Both results are float32 whatever the maps are, also
    under autocast.

    Raises ValueError for an unknown ``kind``, for maps with too few channels, and where the number of levels and of
    strides differ.
    """
    num_box_channels = count_box_channels(kind, reg_max)
    num_channels = levels[0].shape[1]
    if num_channels <= num_box_channels:
        raise ValueError(
            f"a {kind!r} head with {reg_max} reg_max needs more than {num_box_channels} channels (the rest are the "
            f"classes), "
            f"got maps with {num_channels}; check the head's kind and reg_max"
        )
    points_xy, stride = anchor_points(level_sizes(levels), strides, device=levels[0].device)
    raw = flatten_levels(levels).float()
    if kind == "dfl":
        distances_ltrb = expected_bin(torch.unflatten(raw[:, : 4 * reg_max], 1, (4, reg_max)), dim=2).transpose(1, 2)
        boxes_xyxy = boxes_from_distances(points_xy, distances_ltrb * stride[:, None])
        return boxes_xyxy, raw[:, 4 * reg_max :].sigmoid().transpose(1, 2)
    if kind == "ltrb":
        distances_ltrb = raw[:, :4].clamp(min=0).transpose(1, 2)
        boxes_xyxy = boxes_from_distances(points_xy, distances_ltrb * stride[:, None])
        return boxes_xyxy, raw[:, 4:].sigmoid().transpose(1, 2)
    boxes_xyxy = decode_direct_boxes(raw[:, :4].transpose(1, 2), points_xy, stride)
    return boxes_xyxy, (raw[:, 4:5].sigmoid() * raw[:, 5:].sigmoid()).transpose(1, 2)


def anchor_points(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The centers of the cells of all levels.

    ``sizes`` holds (height, width) of each level in cells, ``strides`` the side of a cell in input pixels. Returns the
    centers (x, y) in input pixels ``[A, 2]`` and the stride of each point ``[A]``.

    Raises ValueError where the number of levels and of strides differ.
    """
    _require_one_stride_per_level(len(sizes), strides)
    points, stride_per_point = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) * stride
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 2))
        stride_per_point.append(torch.full((height * width,), float(stride), device=device, dtype=dtype))
    return torch.cat(points), torch.cat(stride_per_point)


def level_sizes(levels: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(height, width) of each of the maps ``[B, channels, H, W]``."""
    return [(level.shape[-2], level.shape[-1]) for level in levels]


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps ``[B, channels, H, W]``, fine to coarse -> ``[B, channels, A]`` in the order of :func:`anchor_points`."""
    return torch.cat([level.flatten(start_dim=2) for level in levels], dim=2)


def _require_one_stride_per_level(num_levels: int, strides: Sequence[int]) -> None:
    if num_levels != len(strides):
        raise ValueError(f"got {num_levels} feature levels for {len(strides)} strides {tuple(strides)}; pass one each")


def expected_bin(bin_logits: Tensor, dim: int = -1) -> Tensor:
    """The mean bin number of distributions given as logits along ``dim``, which is dropped.

    Equation 3 of arXiv 2006.04388 with the bins 0, 1, 2, ...
    """
    shape = [1] * bin_logits.ndim
    shape[dim] = bin_logits.shape[dim]
    numbers = torch.arange(bin_logits.shape[dim], device=bin_logits.device, dtype=bin_logits.dtype)
    return (bin_logits.softmax(dim) * numbers.view(shape)).sum(dim)


def boxes_from_distances(points_xy: Tensor, distances_ltrb: Tensor) -> Tensor:
    """Points ``[..., 2]`` and distances to left, top, right, bottom ``[..., 4]``, in one unit -> boxes (xyxy)."""
    left_top, right_bottom = distances_ltrb.chunk(2, dim=-1)
    return torch.cat((points_xy - left_top, points_xy + right_bottom), dim=-1)


def distances_to_sides(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """The inverse of :func:`boxes_from_distances`: ``[..., 4]`` left, top, right, bottom; negative outside the box."""
    left_top, right_bottom = boxes_xyxy.chunk(2, dim=-1)
    return torch.cat((points_xy - left_top, right_bottom - points_xy), dim=-1)


def decode_direct_boxes(raw_xywh: Tensor, points_xy: Tensor, stride: Tensor) -> Tensor:
    """Raw x, y, width, height ``[..., A, 4]`` at points ``[A, 2]`` of strides ``[A]`` -> boxes (xyxy, pixels).

    Center = (raw + cell index) * stride, size = exp(raw) * stride (arXiv 2107.08430).
    """
    stride = stride[..., None]
    cell = points_xy / stride - 0.5
    center = (raw_xywh[..., :2] + cell) * stride
    size = raw_xywh[..., 2:].exp() * stride
    return cxcywh_to_xyxy(torch.cat((center, size), dim=-1))
