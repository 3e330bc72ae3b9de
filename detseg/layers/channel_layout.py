"""Channels stored in another order than they are counted, so that inference needs no copy to shuffle them.

A layout ``[C]`` of integers says which channel lies at each place: ``stored[:, i] == counted[:, layout[i]]``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shuffle_order(channels: int) -> Tensor:
    """The channel shuffle of ShuffleNet (arXiv 1707.01083) with ``channels / 2`` groups: even channels, then odd ones.

    ``shuffled[:, i] == x[:, order[i]]``; ``channels`` must be even.
    """
    return torch.arange(channels).view(-1, 2).t().flatten()


def layout_after_shuffle(layout: Tensor) -> Tensor:
    """The layout that makes of the untouched stored channels the shuffled ones."""
    return shuffle_order(len(layout)).argsort()[layout]


def layout_before_shuffles(channels: int, num_shuffles: int) -> Tensor:
    """The layout that ``num_shuffles`` shuffles turn into the plain order."""
    layout = torch.arange(channels)
    for _ in range(num_shuffles):
        layout = shuffle_order(channels)[layout]
    return layout


@torch.no_grad()
def reorder_outputs(module: nn.Module, layout: Tensor) -> None:
    """Let ``module``, in place, store the channels it gives in ``layout``; one without parameters needs no change.

    ``module`` is a dense convolution, or acts on each channel by itself and receives its input in ``layout``.
    """
    if isinstance(module, nn.ConvTranspose2d):
        assert module.groups == 1
        module.weight.copy_(module.weight[:, layout])
        if module.bias is not None:
            module.bias.copy_(module.bias[layout])
        return
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.ndim:  # all but the count of batches of a batch norm
            tensor.copy_(tensor[layout])


@torch.no_grad()
def reorder_inputs(conv: nn.Conv2d | nn.ConvTranspose2d, layout: Tensor) -> None:
    """Let ``conv``, in place, expect its input channels in ``layout``."""
    assert conv.groups == 1
    weight = conv.weight
    weight.copy_(weight[layout] if isinstance(conv, nn.ConvTranspose2d) else weight[:, layout])
