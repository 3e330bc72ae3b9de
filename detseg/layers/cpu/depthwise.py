"""Depthwise convolutions with three taps along one axis, dilated or not, that PyTorch has no fast gradient for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detseg.layers.cpu.library import library
from detseg.layers.cpu.rows import PARAMETER_TYPES, TYPE_NUMBERS, as_rows, has_rows
from detseg.layers.cpu.switch import speeds_up

KERNELS = ((3, 1), (1, 3))


def fast_depthwise_conv2d(x: Tensor, conv: nn.Conv2d) -> Tensor | None:
    """``conv(x)``, ``[B, C, H, W]`` -> the same shape, or None where PyTorch's own way is to be taken.

    It is for training, for 3x1 and 1x3 filters that keep the size, where the channels of ``x`` lie last in memory. Sums
    are float32's where autocast chooses bfloat16.
    """
    if not (torch.is_grad_enabled() and speeds_up(x) and _keeps_size(conv, x)):
        return None
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    if not has_rows(x) or conv.weight.dtype != PARAMETER_TYPES[x.dtype] or library() is None:
        return None
    axis = 2 if conv.kernel_size[0] == 3 else 3
    out: Tensor = _Taps.apply(x, conv.weight, axis, conv.dilation[axis - 2])
    return out


def _keeps_size(conv: nn.Conv2d, x: Tensor) -> bool:
    reach = tuple(size // 2 * step for size, step in zip(conv.kernel_size, conv.dilation, strict=True))
    return (
        conv.kernel_size in KERNELS
        and conv.stride == (1, 1)
        and conv.padding == reach
        and conv.padding_mode == "zeros"
        and conv.groups == conv.in_channels == conv.out_channels == x.shape[1]
        and conv.bias is None
    )


def _sizes(x: Tensor, axis: int) -> tuple[int, int, int, int]:
    """What lies outside the axis, along it, inside it, and the channels."""
    batch, channels, height, width = x.shape
    return (batch, height, width, channels) if axis == 2 else (batch * height, width, 1, channels)


class _Taps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, axis: int, dilation: int) -> Tensor:
        kernels = library()
        assert kernels is not None
        taps = weight.view(-1, 3).t().contiguous()
        out = torch.empty_like(x)
        kernels.taps_conv(
            TYPE_NUMBERS[x.dtype], x.data_ptr(), *_sizes(x, axis), dilation, taps.data_ptr(), out.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.axis, ctx.dilation = axis, dilation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels = library()
        assert kernels is not None
        x, weight = ctx.saved_tensors
        grad = as_rows(grad)
        number, sizes, threads = TYPE_NUMBERS[x.dtype], _sizes(x, ctx.axis), torch.get_num_threads()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.view(-1, 3).flip(1).t().contiguous()
            grad_x = torch.empty_like(x)
            kernels.taps_conv(
                number, grad.data_ptr(), *sizes, ctx.dilation, mirrored.data_ptr(), grad_x.data_ptr(), threads
            )
        if ctx.needs_input_grad[1]:
            grad_taps = weight.new_empty((3, weight.shape[0]))
            kernels.taps_conv_gradient(
                number, x.data_ptr(), grad.data_ptr(), *sizes, ctx.dilation, grad_taps.data_ptr(), threads
            )
            grad_weight = grad_taps.t().reshape(weight.shape)
        return grad_x, grad_weight, None, None
