"""3-D convolutions that keep their size, by ways that are faster on the CPU than PyTorch's.

Shapes: ``B`` volumes, ``C`` channels, ``O`` output channels, ``D``, ``H``, ``W`` depth, height, width, ``K`` taps.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from detseg.layers.cpu.switch import speeds_up, uses_cpu_layers
from detseg.layers.cpu.winograd import MIN_CHANNELS, MIN_VOXELS, point_kernels, winograd_conv3d, winograd_pays


def prepared(weight: Tensor) -> Tensor | None:
    """What :func:`fast_same_conv3d` makes of ``weight`` ``[O, C, K, K, K]`` each time, if it may need it at all."""
    return point_kernels(weight) if uses_cpu_layers() and min(weight.shape[:2]) >= MIN_CHANNELS else None


def fast_same_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, points: Tensor | None) -> Tensor | None:
    """``[B, C, D, H, W]`` -> ``[B, O, D, H, W]``, or None where PyTorch's own way is as fast; ``points`` as they were
    :func:`prepared`, or None.

    It goes by Winograd's way where that pays. Where there are few output channels, these fill no vector of the
    processor, and taps are computed beside each other instead. Where there are few voxels for many weights, the weights
    are neither rearranged in memory nor used where they meet only padding.
    """
    if not speeds_up(x):
        return None
    if winograd_pays(x, weight):
        return winograd_conv3d(x, point_kernels(weight) if points is None else points, bias)
    out_channels, in_channels, num_taps = weight.shape[:3]
    if out_channels * num_taps <= MIN_CHANNELS <= in_channels:
        return _by_depth_taps(x, weight, bias)
    if x.numel() // in_channels < MIN_VOXELS:
        return _of_few_voxels(x, weight, bias)
    return None


def _by_depth_taps(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 2-D convolution with one output for every output channel and tap along the depth, and the sum of the taps that
    meet in a slice."""
    batch, _, depth = x.shape[:3]
    out_channels, _, num_taps = weight.shape[:3]
    padding = num_taps // 2
    taps = F.conv2d(x.transpose(1, 2).flatten(0, 1), weight.permute(2, 0, 1, 3, 4).flatten(0, 1), padding=padding)
    taps = taps.view(batch, depth, num_taps, out_channels, *x.shape[3:])
    taps = F.pad(taps, (0, 0, 0, 0, 0, 0, 0, 0, padding, padding))
    out = taps[:, :depth, 0]
    for tap in range(1, num_taps):
        out = out + taps[:, tap : tap + depth, tap]
    if bias is not None:
        out = out + bias.view(-1, 1, 1)
    return out.transpose(1, 2)


def _of_few_voxels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    middle = weight.shape[2] // 2
    reaches = [min(middle, length - 1) for length in x.shape[2:]]
    depth, height, width = (slice(middle - reach, middle + reach + 1) for reach in reaches)
    return F.conv3d(x.contiguous(), weight[:, :, depth, height, width], bias, padding=reaches)
