from __future__ import annotations

from typing import Any

import pytest
import torch

from detseg.layers.csp import C2f, CSPLayer
from detseg.models.backbones.csp_darknet import CSPDarknetConfig


@pytest.mark.parametrize(
    ("settings", "channels", "num_blocks"),
    [
        # 128, 256, 512, 1024 times the width; 3, 6, 6, 3 times the depth (c2f); 1, 3, 3, 1 times round(3 depth) (csp).
        ({"depth": 0.33, "width": 0.25}, (64, 128, 256), [1, 2, 2, 1]),
        ({"depth": 0.67, "width": 0.75, "max_channels": 768}, (192, 384, 576), [2, 4, 4, 2]),
        ({"depth": 1.0, "width": 1.25, "max_channels": 512}, (320, 640, 640), [3, 6, 6, 3]),
        ({"block": "csp", "depth": 0.33, "width": 0.375}, (96, 192, 384), [1, 3, 3, 1]),
        ({"block": "csp", "depth": 1.33, "width": 1.25}, (320, 640, 1280), [4, 12, 12, 4]),
    ],
)
def test_channels_and_depths(settings: dict[str, Any], channels: tuple[int, ...], num_blocks: list[int]) -> None:
    with torch.device("meta"):
        backbone = CSPDarknetConfig(**settings).build()
        levels = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == channels
    assert backbone.strides == (8, 16, 32)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (count, 64 // stride, 96 // stride) for count, stride in zip(channels, (8, 16, 32), strict=True)
    ]
    found = [len(module.blocks) for module in backbone.modules() if isinstance(module, C2f | CSPLayer)]
    assert found == num_blocks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0.0}, "backbone depth must be positive, got 0.0"),
        ({"width": -1.0}, "backbone width must be positive, got -1.0"),
        ({"depthwise": True}, "depthwise: true is for block: csp"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSPDarknetConfig(**settings)
