from __future__ import annotations

import torch

from detseg.layers.focus import Focus


def test_corners_in_the_order_of_the_official_weights() -> None:
    layer = Focus(2, 4)
    seen: list[torch.Tensor] = []
    layer.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    # Pixel values 10 * row + column, the second channel 100 more.
    plane = 10.0 * torch.arange(4)[:, None] + torch.arange(6)
    out = layer(torch.stack((plane, plane + 100))[None])
    assert out.shape == (1, 4, 2, 3)
    # Top left, bottom left, top right, bottom right, each with both channels.
    assert seen[0][0, :, 0, 0].tolist() == [0, 100, 10, 110, 1, 101, 11, 111]
    assert seen[0][0, :, 1, 2].tolist() == [24, 124, 34, 134, 25, 125, 35, 135]
