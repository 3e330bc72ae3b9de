from __future__ import annotations

import pytest
import torch

from detseg.ops.decode import anchor_points, flatten_levels, level_sizes


def test_points_are_cell_centers_row_by_row_fine_to_coarse():
    points_xy, stride = anchor_points([(2, 3), (1, 2)], (8, 16))
    assert points_xy.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert stride.tolist() == [8, 8, 8, 8, 8, 8, 16, 16]
    assert points_xy.dtype == stride.dtype == torch.float32


def test_dtype():
    points_xy, stride = anchor_points([(1, 1)], (32,), device="cpu", dtype=torch.float64)
    assert points_xy.dtype == stride.dtype == torch.float64


def test_flattened_maps_are_in_the_order_of_the_points():
    sizes, strides = [(4, 6), (2, 3)], (8, 16)
    maps = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        centers = torch.zeros(2, 2, height, width)
        for row in range(height):
            for column in range(width):
                centers[:, 0, row, column] = (column + 0.5) * stride
                centers[:, 1, row, column] = (row + 0.5) * stride
        maps.append(centers)
    points_xy, _ = anchor_points(sizes, strides)
    assert level_sizes(maps) == sizes
    assert torch.equal(flatten_levels(maps), points_xy.T.expand(2, 2, 30))


def test_every_level_needs_its_stride():
    with pytest.raises(ValueError, match=r"got 2 feature levels for 3 strides \(8, 16, 32\)"):
        anchor_points([(4, 4), (2, 2)], (8, 16, 32))
