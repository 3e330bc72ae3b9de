from __future__ import annotations

import pytest
import torch
from torch import nn

from detseg.layers.channel_layout import (
    layout_after_shuffle,
    layout_before_shuffles,
    reorder_inputs,
    reorder_outputs,
    shuffle_order,
)

LAYOUT = torch.tensor([2, 0, 3, 1])


def test_even_channels_come_first() -> None:
    assert shuffle_order(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_shuffle_changes_the_layout_instead_of_the_channels() -> None:
    counted = torch.arange(8) * 10
    layout = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    stored = counted[layout]
    shuffled = counted[shuffle_order(8)]
    assert torch.equal(stored, shuffled[layout_after_shuffle(layout)])


@pytest.mark.parametrize("num_shuffles", [0, 1, 3, 12])
def test_shuffles_lead_back_to_the_plain_order(num_shuffles: int) -> None:
    layout = layout_before_shuffles(32, num_shuffles)
    assert (layout.tolist() == list(range(32))) == (num_shuffles == 0)
    for _ in range(num_shuffles):
        layout = layout_after_shuffle(layout)
    assert layout.tolist() == list(range(32))


CONVS = [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(3, 4, 3)]


@pytest.mark.parametrize("conv", CONVS)
def test_reordered_outputs(conv: nn.Module) -> None:
    x = torch.rand(1, 3, 5, 5)
    before = conv(x)
    reorder_outputs(conv, LAYOUT)
    torch.testing.assert_close(conv(x), before[:, LAYOUT])


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 3, 3), nn.ConvTranspose2d(4, 3, 3)])
def test_reordered_inputs(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    x = torch.rand(1, 4, 5, 5)
    before = conv(x)
    reorder_inputs(conv, LAYOUT)
    torch.testing.assert_close(conv(x[:, LAYOUT]), before)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.PReLU(4)])
def test_reordered_channelwise_modules(norm: nn.Module) -> None:
    norm.eval()
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.ndim:
            tensor.data.copy_(torch.rand(4) + 0.5)
    x = torch.randn(1, 4, 5, 5)
    before = norm(x)
    reorder_outputs(norm, LAYOUT)
    assert torch.equal(norm(x[:, LAYOUT]), before[:, LAYOUT])
