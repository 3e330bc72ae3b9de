from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detseg.models.backbones.completed import CompletedPyramid, FeatureMap, maps_at

STRIDES = (8, 16, 32)


def outputs(*shapes: tuple[int, ...]) -> dict[str, object]:
    return {str(index): torch.zeros(shape) for index, shape in enumerate(shapes)}


def test_the_last_exact_map_goes_before_a_later_one_that_is_near() -> None:
    found = maps_at(STRIDES, outputs((1, 5, 16, 24), (1, 6, 15, 23), (1, 16, 24, 7), (1, 8, 8, 12)), 128, 192)
    assert found == {8: FeatureMap("2", 7, True), 16: FeatureMap("3", 8, False)}


def test_a_near_map_stands_in_where_there_is_no_exact_one() -> None:
    # 128 / 15 = 8.5, 192 / 23 = 8.3; 128 / 6 = 21.3 is nearly half an octave off.
    assert maps_at(STRIDES, outputs((1, 6, 15, 23), (1, 9, 6, 9)), 128, 192) == {8: FeatureMap("0", 6, False)}
    assert maps_at(STRIDES, {"0": "text", "1": torch.zeros(1, 8)}, 128, 192) == {}


@pytest.mark.parametrize(
    ("has", "channels"),
    [((8, 16, 32), (3, 3, 3)), ((8,), (3, 3, 3)), ((16,), (1, 3, 3)), ((32,), (1, 1, 3)), ((8, 32), (3, 3, 3))],
)
def test_what_is_missing_is_made(has: tuple[int, ...], channels: tuple[int, ...]) -> None:
    pyramid = CompletedPyramid(STRIDES, {stride: FeatureMap(str(stride), 3, False) for stride in has})
    assert pyramid.channels == channels
    # One cell less than the stride asks for, as without padding.
    maps = [torch.rand(2, 3, 64 // stride - 1, 96 // stride - 1, requires_grad=True) for stride in has]
    levels: list[Tensor] = pyramid(maps, 64, 96)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (count, 64 // stride, 96 // stride) for count, stride in zip(channels, STRIDES, strict=True)
    ]
    sum(level.square().sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_exact_maps_pass_through() -> None:
    pyramid = CompletedPyramid(STRIDES, {stride: FeatureMap(str(stride), 2, False) for stride in STRIDES})
    maps = [torch.rand(1, 2, 64 // stride, 96 // stride) for stride in STRIDES]
    assert all(map(torch.equal, pyramid(maps, 64, 96), maps))
    assert list(pyramid.parameters()) == []
