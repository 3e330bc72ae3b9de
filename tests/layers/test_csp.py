from __future__ import annotations

import pytest
import torch
from torch import nn

from detseg.layers.csp import Bottleneck, C2f, CSPLayer


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _conv(in_channels: int, out_channels: int, kernel: int) -> int:
    """The parameters of a convolution without bias and its batch norm."""
    return in_channels * out_channels * kernel**2 + 2 * out_channels


def test_parameter_counts() -> None:
    hidden = 8
    c2f = _conv(12, 2 * hidden, 1) + 3 * 2 * _conv(hidden, hidden, 3) + _conv((2 + 3) * hidden, 16, 1)
    assert _count(C2f(12, 16, 3)) == c2f
    csp = 2 * _conv(12, hidden, 1) + 3 * (_conv(hidden, hidden, 1) + _conv(hidden, hidden, 3)) + _conv(16, 16, 1)
    assert _count(CSPLayer(12, 16, 3)) == csp
    depthwise = csp - 3 * _conv(hidden, hidden, 3) + 3 * (hidden * 9 + 2 * hidden + _conv(hidden, hidden, 1))
    assert _count(CSPLayer(12, 16, 3, depthwise=True)) == depthwise


@pytest.mark.parametrize("shortcut", [False, True])
def test_bottleneck_adds_its_input_only_with_a_shortcut(shortcut: bool) -> None:
    block = Bottleneck(4, shortcut).eval()
    nn.init.zeros_(block.conv2.conv.weight)  # type: ignore[union-attr]
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x if shortcut else torch.zeros_like(x))


def test_c2f_hands_every_link_to_its_last_convolution() -> None:
    block = C2f(4, 8, 2).eval()
    seen: list[torch.Tensor] = []
    block.conv2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 4, 6, 6)
    block(x)
    first, second = block.conv1(x).chunk(2, dim=1)
    third = block.blocks[0](second)
    fourth = block.blocks[1](third)
    torch.testing.assert_close(seen[0], torch.cat((first, second, third, fourth), dim=1))


def test_csp_layer_puts_the_deep_half_first() -> None:
    """The order in which the official weights were trained."""
    block = CSPLayer(4, 8, 1).eval()
    seen: list[torch.Tensor] = []
    block.conv3.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 4, 6, 6)
    block(x)
    torch.testing.assert_close(seen[0], torch.cat((block.blocks(block.conv1(x)), block.conv2(x)), dim=1))
