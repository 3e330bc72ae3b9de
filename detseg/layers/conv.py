"""Convolution, batch norm and activation: the brick that the detectors are built of."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from detseg.layers.autocast import in_32_bits, learns_in_16_bits
from detseg.layers.cpu.depthwise import fast_depthwise_conv2d
from detseg.layers.cpu.norm_act import norm_act

Activation = Literal["silu", "relu", "leaky_relu", "hardswish", "gelu", "prelu", "identity"]

ConvT = TypeVar("ConvT", nn.Conv2d, nn.ConvTranspose2d)

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


def make_activation(name: str, channels: int = 1) -> nn.Module:
    """A new activation module; only ``prelu``, which learns a slope per channel, needs to know the ``channels``.

    Raises:
        ValueError: ``name`` is not one of the known activations.
    """
    match name:
        case "silu":
            # Not in place: training would have to copy the input first, because the gradient needs it.
            return nn.SiLU()
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.1, inplace=True)
        case "hardswish":
            return nn.Hardswish()
        case "gelu":
            return nn.GELU()
        case "prelu":
            return nn.PReLU(channels)
        case "identity":
            return nn.Identity()
    raise ValueError(f"unknown activation {name!r}; use silu, relu, leaky_relu, hardswish, gelu, prelu or identity")


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one filter per channel by name and result; faster in training on a CPU, where a dilated one
    learns in 32 bits (see ``autocast``) if there is no faster way."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        out = fast_depthwise_conv2d(input, self)
        if out is not None:
            return out
        if max(self.dilation) > 1 and learns_in_16_bits(input):
            return in_32_bits(super().forward, input)
        return super().forward(input)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation; keeps ``ceil(size / stride)`` for odd kernels.

    ``fuse`` folds the batch norm into the convolution for inference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "silu",
        dilation: int = 1,
        momentum: float = BATCH_NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2 * dilation, width // 2 * dilation)
        conv_type = DepthwiseConv2d if groups == in_channels == out_channels > 1 else nn.Conv2d
        self.conv: nn.Conv2d = conv_type(
            in_channels, out_channels, (height, width), stride, padding, dilation, groups=groups, bias=False
        )
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=momentum)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        return norm_act(self.bn, self.act, self.conv(x))

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace convolution and batch norm, in place, by one convolution equal to both in evaluation mode."""
        if isinstance(self.bn, nn.Identity):
            return
        self.conv = fold_batch_norm(self.conv, self.bn)
        self.bn = nn.Identity()


class SeparableConv(nn.Module):
    """A depthwise convolution followed by a pointwise one, each with batch norm and activation (MobileNet, arXiv
    1704.04861)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, activation: str = "silu"
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, kernel, stride, groups=in_channels, activation=activation
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


def make_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    activation: str = "silu",
    depthwise: bool = False,
) -> ConvNormAct | SeparableConv:
    """A dense or a depthwise separable convolution of the same shape."""
    if depthwise:
        return SeparableConv(in_channels, out_channels, kernel, stride, activation)
    return ConvNormAct(in_channels, out_channels, kernel, stride, activation=activation)


@torch.no_grad()
def fold_batch_norm(conv: ConvT, norm: nn.BatchNorm2d) -> ConvT:
    """A convolution with bias equal to ``norm(conv(x))`` in evaluation mode, computed in double precision.

    ``conv`` may be transposed; it must not be grouped then.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch norm without running statistics cannot be folded into a convolution")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    # A copy, because a new convolution would draw its initial weights from the global random state.
    folded = copy.deepcopy(conv)
    scale = scale[None, :, None, None] if isinstance(conv, nn.ConvTranspose2d) else scale[:, None, None, None]
    folded.weight.copy_(conv.weight.double() * scale)
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    folded.requires_grad_(False)
    return folded


def fuse(model: nn.Module) -> None:
    """Fold, in place, every batch norm of a ``ConvNormAct`` in ``model`` into its convolution.

    Fused models are for inference: their convolutions are frozen and their state dict no longer fits the trained one.

    Raises:
        ValueError: ``model`` is in training mode.
    """
    if model.training:
        raise ValueError("a model in training mode cannot be fused; call model.eval() first")
    for module in list(model.modules()):
        if isinstance(module, ConvNormAct):
            module.fuse()
