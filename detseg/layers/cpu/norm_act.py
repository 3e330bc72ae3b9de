"""Batch norm and activation in training, in two passes over memory each way instead of some ten.

PyTorch writes what the norm gives to memory, reads it for the activation, and keeps both inputs for the gradient. Here
the input of the norm is all that is kept. Means and variances are float32's whatever the type of the input.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detseg.layers.cpu.library import library
from detseg.layers.cpu.rows import PARAMETER_TYPES, TYPE_NUMBERS, as_rows, has_rows
from detseg.layers.cpu.switch import speeds_up

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = {nn.Identity: 0, nn.PReLU: 1}
"""As ``native/norm_act.cpp`` counts them. PyTorch's own way is the faster one with SiLU."""


def norm_act(norm: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """``activation(norm(x))``, ``[B, C, ...]`` -> the same shape.

    It is faster for a batch norm that learns, with a PReLU or nothing after it, where the channels of ``x`` lie
    last in memory.
    """
    out: Tensor
    kind = _kind(norm, activation, x)
    if kind is None:
        out = activation(norm(x))
    else:
        slopes = activation.weight if kind == ACTIVATIONS[nn.PReLU] else None
        out = _NormAct.apply(x, norm.weight, norm.bias, slopes, norm, kind)
    return out


def _kind(norm: nn.Module, activation: nn.Module, x: Tensor) -> int | None:
    """The number of the activation, or None where PyTorch's own way is to be taken."""
    if not (norm.training and speeds_up(x)) or type(norm) not in NORMS or not has_rows(x):
        return None
    norm = cast(nn.BatchNorm2d, norm)
    # One value to a channel is an error, and PyTorch says which.
    if norm.momentum is None or norm.weight is None or x.shape[1] != norm.num_features or x.numel() <= x.shape[1]:
        return None
    if norm.weight.dtype != PARAMETER_TYPES[x.dtype] or _has_hooks(norm) or _has_hooks(activation):
        return None
    kind = next((number for cls, number in ACTIVATIONS.items() if isinstance(activation, cls)), None)
    if kind == ACTIVATIONS[nn.PReLU] and cast(nn.PReLU, activation).num_parameters != x.shape[1]:
        return None
    return None if kind is None or library() is None else kind


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slopes: Tensor | None, norm: nn.BatchNorm2d, kind: int
    ) -> Tensor:
        kernels = library()
        assert kernels is not None
        channels = x.shape[1]
        out = torch.empty_like(x)
        moments = weight.new_empty((2, channels))
        running_mean, running_var = norm.running_mean, norm.running_var
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        kernels.norm_act_forward(
            TYPE_NUMBERS[x.dtype], kind, x.data_ptr(), x.numel() // channels, channels, weight.data_ptr(),
            bias.data_ptr(), 0 if slopes is None else slopes.data_ptr(), norm.eps, out.data_ptr(), moments.data_ptr(),
            moments[1].data_ptr(), 0 if running_mean is None else running_mean.data_ptr(),
            0 if running_var is None else running_var.data_ptr(), norm.momentum, torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, slopes, moments)
        ctx.kind = kind
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels = library()
        assert kernels is not None
        x, weight, bias, slopes, moments = ctx.saved_tensors
        grad = as_rows(grad)
        channels = x.shape[1]
        grad_x, grads = torch.empty_like(x), weight.new_empty((3, channels))
        grad_weight, grad_bias, grad_slopes = grads.unbind()
        kernels.norm_act_backward(
            TYPE_NUMBERS[x.dtype], ctx.kind, x.data_ptr(), grad.data_ptr(), x.numel() // channels, channels,
            weight.data_ptr(), bias.data_ptr(), 0 if slopes is None else slopes.data_ptr(), moments.data_ptr(),
            moments[1].data_ptr(), grad_x.data_ptr(), grad_weight.data_ptr(), grad_bias.data_ptr(),
            grad_slopes.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return grad_x, grad_weight, grad_bias, grad_slopes if slopes is not None else None, None, None
