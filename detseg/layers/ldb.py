"""The lightweight dilated bottleneck of LETNet (arXiv 2302.10484), and the batch norm with PReLU that it is full of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detseg.layers.attention import ChannelWeights
from detseg.layers.channel_layout import layout_after_shuffle, reorder_inputs, reorder_outputs, shuffle_order
from detseg.layers.conv import BATCH_NORM_EPS, ConvNormAct
from detseg.layers.cpu.norm_act import norm_act
from detseg.layers.cpu.pointwise import PointwiseConv2d
from detseg.layers.cpu.rows import has_rows
from detseg.layers.cpu.switch import speeds_up

MOMENTUM = 0.1


def conv_norm_prelu(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
) -> ConvNormAct:
    """Convolution, batch norm (momentum 0.1) and a PReLU with a slope per channel."""
    groups = out_channels if depthwise else 1
    return ConvNormAct(in_channels, out_channels, kernel, stride, groups, "prelu", dilation, MOMENTUM)


class NormPReLU(nn.Module):
    """Batch norm and PReLU, each per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=MOMENTUM)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        return norm_act(self.bn, self.act, x)

    def reorder(self, layout: Tensor) -> None:
        """Take and give, from now on, the channels in ``layout`` (see ``channel_layout``)."""
        reorder_outputs(self.bn, layout)
        reorder_outputs(self.act, layout)


class ChannelShuffle(nn.Module):
    """Even channels first, then the odd ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("order", shuffle_order(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        if torch.is_grad_enabled() and speeds_up(x) and has_rows(x):
            # Channels stay last in memory, where the selection below would leave another layout.
            pairs = torch.unflatten(x.permute(0, 2, 3, 1), 3, (-1, 2))
            return pairs.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
        return x[:, self.get_buffer("order")]


class LDB(nn.Module):
    """Half of the channels pass a 3x1 and a 1x3 convolution, then a depthwise and a dilated depthwise branch, each
    weighted by channel attention; the result is added to the input, and the channels are shuffled.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.pre = NormPReLU(channels)
        self.squeeze = PointwiseConv2d(channels, hidden)
        self.dense = nn.Sequential(conv_norm_prelu(hidden, hidden, (3, 1)), conv_norm_prelu(hidden, hidden, (1, 3)))
        self.near = _depthwise_pair(hidden, 1)
        self.far = _depthwise_pair(hidden, dilation)
        self.near_weights = ChannelWeights()
        self.far_weights = ChannelWeights()
        self.post = NormPReLU(hidden)
        self.unsqueeze = PointwiseConv2d(hidden, channels)
        self.shuffle: nn.Module = ChannelShuffle(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` -> the same shape."""
        hidden = self.dense(self.squeeze(self.pre(x)))
        near, far = self.near(hidden), self.far(hidden)
        hidden = _add_weighted(hidden, near, self.near_weights(near))
        hidden = _add_weighted(hidden, far, self.far_weights(far))
        out: Tensor = self.shuffle(x + self.unsqueeze(self.post(hidden)))
        return out

    def fold_shuffle(self, layout: Tensor) -> Tensor:
        """Take the channels in ``layout`` and leave them where they are instead of shuffling; gives the new layout."""
        self.pre.reorder(layout)
        reorder_inputs(self.squeeze, layout)
        reorder_outputs(self.unsqueeze, layout)
        self.shuffle = nn.Identity()
        return layout_after_shuffle(layout)

    def fuse(self) -> None:
        """Let the weights of channels be exported as convolutions."""
        for weights in (self.near_weights, self.far_weights):
            weights.fuse(self.post.bn.num_features)


class LDBStage(nn.Sequential):
    """A chain of LDBs, one per dilation, at constant width and resolution."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__(*(LDB(channels, dilation) for dilation in dilations))

    def fold_shuffles(self, layout: Tensor) -> Tensor:
        """Take the channels in ``layout`` and shuffle no more; gives the layout of the output."""
        for block in self:
            assert isinstance(block, LDB)
            layout = block.fold_shuffle(layout)
        return layout


def _add_weighted(hidden: Tensor, branch: Tensor, weights: Tensor) -> Tensor:
    """``hidden`` and ``branch`` times its weights."""
    if torch.compiler.is_exporting():
        # ONNX has no operator for both at once, and torch would write four.
        return hidden + branch * weights
    return torch.addcmul(hidden, branch, weights)


def _depthwise_pair(channels: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm_prelu(channels, channels, (3, 1), dilation=dilation, depthwise=True),
        conv_norm_prelu(channels, channels, (1, 3), dilation=dilation, depthwise=True),
    )
