"""A detector's raw maps as boxes and scores that are defined to the last bit, as the kernels for GPUs compute them.

The functions of :mod:`detseg.ops.decode` give the same within a few units in the last place: which these are there is
up to the library, as with any exponential. Here every operation is one of IEEE 754 and rounds on its own.

Shape legend: B images, A anchor points of all levels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.ops.decode import anchor_points, flatten_levels, level_sizes
from detseg.runtime.postprocess.config import HeadKind, count_box_channels

_LARGEST = 80.0
_LOG2_E = 1.44269502162933349609375
_TO_WHOLE = 12582912.0  # 1.5 * 2^23: what is added to it and taken away again is a whole number
_LN_2 = (0.693359375, -0.0002121944417012855410575866699)
"""The logarithm of 2 in two parts, of which whole numbers times the first have no error."""
_COEFFICIENTS = (
    0.00019875691214110702276230,
    0.00139819993637502193450927,
    0.00833345204591751098632812,
    0.04166579619050025939941406,
    0.16666665673255920410156250,
    0.5,
)
"""Of a polynomial for (e^x - 1 - x) / x^2 near 0, highest first, as in Moshier's Cephes library."""


def exponential(x: Tensor) -> Tensor:
    """e to ``x`` float32, with an error of two units in the last place at most; ``x`` above 80 or below -80 counts as
    these, NaN stays NaN."""
    x = torch.where(x > _LARGEST, _LARGEST, torch.where(x < -_LARGEST, -_LARGEST, x))
    whole = (x * _LOG2_E + _TO_WHOLE) - _TO_WHOLE
    rest = (x - whole * _LN_2[0]) - whole * _LN_2[1]
    value = torch.full_like(rest, _COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        value = value * rest + coefficient
    value = (value * rest) * rest + rest + 1.0
    whole = torch.where(x == x, whole, 0.0)
    power = ((whole.to(torch.int32) + 127) << 23).view(torch.float32)
    return value * power


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e to -``x``), float32."""
    return torch.ones_like(x) / (1.0 + exponential(-x))


def decode_exactly(
    kind: HeadKind, levels: Sequence[Tensor], strides: Sequence[int], reg_max: int
) -> tuple[Tensor, Tensor]:
    """What :func:`detseg.ops.decode.decode` gives but for rounding: boxes ``[B, A, 4]`` and scores ``[B, A, C]``."""
    points_xy, stride = anchor_points(level_sizes(levels), strides, device=levels[0].device)
    raw = flatten_levels(levels).float()
    num_box_channels = count_box_channels(kind, reg_max)
    logits = raw[:, num_box_channels:].transpose(1, 2)
    if kind == "yolox":
        cells = torch.floor(points_xy / stride[:, None])
        center = (raw[:, :2].transpose(1, 2) + cells) * stride[:, None]
        half = (exponential(raw[:, 2:4].transpose(1, 2)) * stride[:, None]) * 0.5
        return torch.cat((center - half, center + half), dim=2), sigmoid(raw[:, 4:5].transpose(1, 2)) * sigmoid(logits)
    if kind == "dfl":
        bins = torch.unflatten(raw[:, : 4 * reg_max], 1, (4, reg_max))
        highest = bins[:, :, 0]
        for number in range(1, reg_max):
            highest = torch.where(bins[:, :, number] > highest, bins[:, :, number], highest)
        total, moment = torch.zeros_like(highest), torch.zeros_like(highest)
        for number in range(reg_max):
            share = exponential(bins[:, :, number] - highest)
            total = total + share
            moment = moment + share * float(number)
        distances = (moment / total).transpose(1, 2)
    else:
        distances = raw[:, :4].clamp(min=0).transpose(1, 2)
    distances = distances * stride[:, None]
    return torch.cat((points_xy - distances[..., :2], points_xy + distances[..., 2:]), dim=2), sigmoid(logits)
