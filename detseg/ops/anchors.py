"""Anchor points of an anchor-free detector: one per cell of every feature level.

Shapes: ``B`` images, ``A`` anchor points of all levels, fine to coarse, each level row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
