"""3-D convolution with fewer multiplications on the CPU: Winograd's minimal filtering along the depth.

A direct convolution spends K multiplications per output along an axis of K taps. Four neighboring outputs together need
only K + 3 (Winograd, 1980; for networks Lavin and Gray, arXiv 1509.09308): 2.5 times fewer with 5 taps, 2 times with 3.
Four outputs y and the K + 3 inputs d that they see are related by ``y = A^T [(G w) * (B^T d)]``: along the depth, B^T
turns the slices that a tile of four sees into K + 3 combinations ("points"), each is convolved in 2-D with its own
combination G w of the kernel's slices, and A^T turns the results into the tile's four slices. Height and width are left
to the 2-D convolutions: every further axis would cost accuracy.

Shapes: ``B`` volumes, ``C`` channels, ``O`` output channels, ``D``, ``H``, ``W`` depth, height, width, ``K`` taps,
``P`` points, ``n`` tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detseg.layers.cpu.switch import speeds_up

TILE = 4
POINTS = {3: (0.0, 1.0, -1.0, 2.0, -0.5), 5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)}
"""Where polynomials are evaluated, besides infinity, by the number of taps: the most accurate of several choices, three
times the rounding errors of a direct convolution."""

CHUNK_BYTES = 16 << 20
"""Points are made and used up in portions of about this size, which caches hold."""

MIN_CHANNELS = 16
MIN_VOXELS = 512
MAX_SHARE = 0.7
"""Of the multiplications of the direct convolution: the last tile may reach beyond the volume."""


class Transforms(NamedTuple):
    """The matrices of ``y = A^T [(G w) * (B^T d)]``: ``inputs`` is B^T ``[P, P]``, ``kernel`` G ``[P, K]``, ``outputs``
    A^T ``[TILE, P]``."""

    inputs: Tensor
    kernel: Tensor
    outputs: Tensor


class Window(NamedTuple):
    """The slices of one volume that a tile has to do with, and which rows or columns of a matrix stand for them."""

    volume: int
    slices: slice
    places: slice


@functools.cache
def transforms(num_taps: int) -> Transforms:
    """The matrices for 3 or 5 taps, by Toom and Cook's method.

    Two polynomials are multiplied by way of their values at P points, ``inverse(V_P) [(V_K w) * (V_TILE y)]`` with
    Vandermonde matrices V; the transpose of multiplying by w is correlating with w.
    """
    points = POINTS[num_taps]

    def values(num_coefficients: int) -> Any:
        at_infinity = np.eye(num_coefficients)[-1:]
        return np.concatenate((np.vander(points, num_coefficients, increasing=True), at_infinity))

    matrices = (np.linalg.inv(values(len(points) + 1)).T, values(num_taps), values(TILE).T)
    # Kept longer than the mode they are first asked for in: training cannot use tensors of inference mode.
    with torch.inference_mode(False):
        return Transforms(*(torch.from_numpy(np.ascontiguousarray(matrix)).float() for matrix in matrices))


def winograd_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether ``winograd_conv3d`` can be used and is faster than a direct convolution: float32 on the CPU, cubic
    kernels of 3 or 5 taps, enough channels to fill the processor's vectors, and enough voxels to make up for the
    transformation of the weights."""
    if not speeds_up(x) or torch.is_autocast_enabled("cpu"):
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    out_channels, in_channels, *kernel = weight.shape
    num_taps = kernel[0]
    if num_taps not in POINTS or kernel != [num_taps] * 3 or min(in_channels, out_channels) < MIN_CHANNELS:
        return False
    batch, _, depth, height, width = x.shape
    num_products = -(-depth // TILE) * (num_taps + TILE - 1)
    return num_products <= MAX_SHARE * num_taps * depth and batch * depth * height * width >= MIN_VOXELS


def point_kernels(weight: Tensor) -> Tensor:
    """The 2-D kernels ``[P, O, C, K, K]`` of all points, from those of a 3-D convolution ``[O, C, K, K, K]``."""
    out_channels, in_channels, num_taps = weight.shape[:3]
    by_depth = weight.permute(2, 0, 3, 4, 1).reshape(num_taps, -1)
    kernels = transforms(num_taps).kernel @ by_depth
    return kernels.view(-1, out_channels, num_taps, num_taps, in_channels).permute(0, 1, 4, 2, 3)


def winograd_conv3d(x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of ``x`` ``[B, C, D, H, W]`` that keeps its size, -> ``[B, O, D, H, W]`` in channels_last_3d.

    Args:
        x: float32 on the CPU; channels_last_3d saves a copy.
        kernels: ``point_kernels`` of the weight.
        bias: ``[O]``, or None.
    """
    out: Tensor = _WinogradConv3d.apply(x, kernels, bias)
    return out


class _WinogradConv3d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, kernels)
        num_taps = kernels.shape[-1]
        matrices = transforms(num_taps)
        x = _channels_last(x)
        out = x.new_zeros((*x.shape[:4], kernels.shape[1]))
        if bias is not None:
            out += bias
        for seen, made in _chunks(x, num_taps):
            points = _spread(x, seen, matrices.inputs)
            products = [
                F.conv2d(point, kernel, padding=num_taps // 2) for point, kernel in zip(points, kernels, strict=True)
            ]
            _collect(products, out, made, matrices.outputs)
        return out.permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels = ctx.saved_tensors
        num_taps = kernels.shape[-1]
        matrices = transforms(num_taps)
        wants_x, wants_kernels, wants_bias = ctx.needs_input_grad
        grad, x = _channels_last(grad), _channels_last(x)
        grad_x = torch.zeros_like(x) if wants_x else None
        grad_kernels = [torch.zeros_like(kernel) for kernel in kernels] if wants_kernels else None
        for seen, made in _chunks(x, num_taps):
            # The points are computed anew rather than kept: they are twice as large as x, and cheap.
            points, products = _spread(x, seen, matrices.inputs), _spread(grad, made, matrices.outputs.T)
            grad_points = []
            for index, (point, product, kernel) in enumerate(zip(points, products, kernels, strict=True)):
                grad_point, grad_kernel, _ = torch.ops.aten.convolution_backward(
                    product, point, kernel, None, [1], [num_taps // 2], [1], False, [0], 1,
                    [wants_x, wants_kernels, False],
                )  # fmt: skip
                grad_points.append(grad_point)
                if grad_kernels is not None:
                    grad_kernels[index] += grad_kernel
            if grad_x is not None:
                _collect(grad_points, grad_x, seen, matrices.inputs.T)
        return (
            None if grad_x is None else grad_x.permute(0, 4, 1, 2, 3),
            None if grad_kernels is None else torch.stack(grad_kernels),
            grad.sum((0, 1, 2, 3)) if wants_bias else None,
        )


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _chunks(x: Tensor, num_taps: int) -> Iterator[tuple[Sequence[Window], Sequence[Window]]]:
    """For a portion of the tiles of ``x`` ``[B, D, H, W, C]`` at a time: the windows they see, and those they make."""
    batch, depth = x.shape[:2]
    seen, made = [], []
    for volume in range(batch):
        for start in range(0, depth, TILE):
            first = start - num_taps // 2
            # The places before the first slice and after the last hold zeros: they are left out.
            slices = slice(max(0, first), min(depth, first + TILE + num_taps - 1))
            seen.append(Window(volume, slices, slice(slices.start - first, slices.stop - first)))
            slices = slice(start, min(depth, start + TILE))
            made.append(Window(volume, slices, slice(0, slices.stop - start)))
    tile_bytes = x[0, 0].numel() * x.element_size() * (num_taps + TILE - 1)
    count = max(1, CHUNK_BYTES // tile_bytes)
    for start in range(0, len(seen), count):
        yield seen[start : start + count], made[start : start + count]


def _spread(x: Tensor, windows: Sequence[Window], matrix: Tensor) -> Tensor:
    """Combinations by the rows of ``matrix`` ``[P, places]`` of the slices in each window of ``x`` ``[B, D, H, W, C]``,
    -> ``[P, n, C, H, W]`` with channels last in memory."""
    points = x.new_empty((len(matrix), len(windows), *x.shape[2:]))
    for index, (volume, slices, places) in enumerate(windows):
        torch.mm(matrix[:, places], x[volume, slices].flatten(1), out=points[:, index].flatten(1))
    return points.permute(0, 1, 4, 2, 3)


def _collect(points: Sequence[Tensor], out: Tensor, windows: Sequence[Window], matrix: Tensor) -> None:
    """Add to each window of ``out`` ``[B, D, H, W, C]`` the combinations, by the rows of ``matrix`` ``[places, P]``, of
    ``points`` P times ``[n, C, H, W]``."""
    stacked = torch.stack([point.permute(0, 2, 3, 1) for point in points])
    for index, (volume, slices, places) in enumerate(windows):
        out[volume, slices].flatten(1).addmm_(matrix[places], stacked[:, index].flatten(1))
