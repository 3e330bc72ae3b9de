"""Instance norm, PReLU and 1x1x1 convolution as PyTorch has them, with less memory traffic on the CPU.

PyTorch's are slow there for volumes whose channels lie beside each other (channels_last_3d): they copy to another
layout and back, or fall back to plain loops. Anywhere else, and in exported graphs, they are PyTorch's.

Shapes: ``B`` volumes, ``C`` channels, ``O`` output channels, ``D``, ``H``, ``W`` depth, height, width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detseg.layers.cpu.switch import speeds_up

CHUNK_ELEMENTS = 1 << 18
"""A megabyte of float32: the intermediate results of a portion stay in the cache."""


class InstanceNorm3d(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` with learned scale and shift, that keeps the layout of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> the same shape."""
        if not speeds_up(input):
            return super().forward(input)
        # The norm of a batch of one volume is that of the volume.
        volumes = torch.split(input, 1)
        return torch.cat(
            [F.batch_norm(volume, None, None, self.weight, self.bias, True, 0.0, self.eps) for volume in volumes]
        )


class PReLU(nn.PReLU):
    """``nn.PReLU`` with a slope per channel, and a gradient that is computed several times as fast."""

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> the same shape."""
        if not speeds_up(input) or not input.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(input)
        out: Tensor = _PReLU.apply(input, self.weight)
        return out


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return F.prelu(x, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = ctx.saved_tensors
        rows, grad_rows = (volume.permute(0, 2, 3, 4, 1).reshape(-1, len(slopes)) for volume in (x, grad))
        grad_x, grad_slopes = torch.empty_like(rows), torch.zeros_like(slopes)
        count = max(1, CHUNK_ELEMENTS // len(slopes))
        for row, grad_row, out in zip(*(torch.split(whole, count) for whole in (rows, grad_rows, grad_x)), strict=True):
            positive = torch.ops.aten.threshold_backward(grad_row, row, 0)
            negative = grad_row - positive
            torch.addcmul(positive, negative, slopes, out=out)
            grad_slopes += negative.mul_(row).sum(0)
        batch, channels, *size = x.shape
        return grad_x.view(batch, *size, channels).permute(0, 4, 1, 2, 3), grad_slopes


class PointwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with kernels of one voxel, as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> ``[B, O, D, H, W]``, contiguous on the CPU."""
        if not speeds_up(input):
            return super().forward(input)
        out = F.linear(input.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return out.permute(0, 4, 1, 2, 3).contiguous()
