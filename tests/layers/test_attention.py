from __future__ import annotations

import torch
from torch import nn

from detseg.layers.attention import ChannelWeights, PixelAttention


def test_channel_weights_look_at_a_channel_and_its_neighbors() -> None:
    layer = ChannelWeights()
    layer.conv.weight.data = torch.tensor([[[1.0, 10.0, 100.0]]])
    # Means 0.01, 0.02, 0.03; weights 1, 10, 100 on the channel before, the channel itself, the one after.
    x = torch.tensor([0.0, 0.02, 0.01, 0.03, 0.02, 0.04]).view(1, 3, 1, 2)
    expected = torch.sigmoid(torch.tensor([0.1 + 2.0, 0.01 + 0.2 + 3.0, 0.02 + 0.3]))
    torch.testing.assert_close(layer(x), expected.view(1, 3, 1, 1))


def test_pixel_attention_weighs_every_value() -> None:
    layer = PixelAttention(2)
    nn.init.zeros_(layer.conv.weight)
    assert layer.conv.bias is not None
    layer.conv.bias.data = torch.tensor([0.0, 100.0])
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(layer(x), torch.stack((0.5 * x[:, 0], x[:, 1]), dim=1))


def test_weights_of_channels_are_the_same_in_an_exported_graph() -> None:
    layer = ChannelWeights().eval()
    x = torch.randn(2, 7, 5, 6)
    expected = layer(x)
    layer.fuse(7)
    exported = torch.export.export(layer, (x,))
    assert not any("conv1d" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected)
