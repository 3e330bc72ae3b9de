from __future__ import annotations

from typing import Any

import pytest
import torch

from detseg.models.necks.pan import PANConfig

CHANNELS, STRIDES = (8, 16, 32), (8, 16, 32)


def _features(channels: tuple[int, ...] = CHANNELS) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, count, 24 // 2**level, 16 // 2**level) for level, count in enumerate(channels)]


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({}, (8, 16, 32)),
        ({"block": "csp"}, (8, 16, 32)),
        ({"block": "csp", "depthwise": True}, (8, 16, 32)),
        ({"channels": (4, 6, 10)}, (4, 6, 10)),
        ({"block": "csp", "channels": (4, 6, 10)}, (4, 6, 10)),
    ],
)
def test_shapes(settings: dict[str, Any], channels: tuple[int, ...]) -> None:
    neck = PANConfig(**settings).build(CHANNELS, STRIDES)
    assert neck.channels == channels
    assert neck.strides == STRIDES
    shapes = [tuple(level.shape[1:]) for level in neck(_features())]
    assert shapes == [(count, 24 // 2**level, 16 // 2**level) for level, count in enumerate(channels)]


@pytest.mark.parametrize("block", ["c2f", "csp"])
def test_every_level_sees_every_other(block: Any) -> None:
    neck = PANConfig(block=block).build(CHANNELS, STRIDES).eval()
    with torch.no_grad():
        before = neck(_features())
        for changed in range(3):
            features = _features()
            features[changed] = features[changed] + 1
            assert all(not torch.equal(one, other) for one, other in zip(before, neck(features), strict=True))


@pytest.mark.parametrize("num_levels", [2, 4])
def test_other_numbers_of_levels(num_levels: int) -> None:
    channels, strides = (8, 16, 24, 32)[:num_levels], (4, 8, 16, 32)[:num_levels]
    neck = PANConfig(block="csp").build(channels, strides)
    levels = neck(_features(channels))
    assert [level.shape[1] for level in levels] == list(channels)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neck channels must be 3 numbers, .* got \[8, 16\]"):
        PANConfig(channels=(8, 16)).build(CHANNELS, STRIDES)
    with pytest.raises(ValueError, match=r"factor of two apart, the backbone has strides \(8, 32\)"):
        PANConfig().build((8, 16), (8, 32))
    with pytest.raises(ValueError, match="neck channels must be positive, got 0"):
        PANConfig(channels=(8, 0, 8))
    with pytest.raises(ValueError, match="depthwise: true is for block: csp"):
        PANConfig(depthwise=True)
