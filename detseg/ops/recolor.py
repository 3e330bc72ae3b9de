"""Shifts of hue, saturation and brightness of RGB images on any device, in 8-bit HSV as OpenCV defines it.

Hue goes around in 256 steps (``COLOR_RGB2HSV_FULL``). All numbers are rounded where OpenCV rounds them, so that the
images are those that the same shift gives on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FRACTION_BITS = 12
"""Of the fixed-point quotients in OpenCV's way to HSV."""
_LARGEST_HUE = 255
"""What OpenCV takes for a whole turn on the way back."""


def shift_hsv(images: Tensor, hue_steps: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB ``[B, H, W, 3]`` uint8 -> the same with the hue ``hue_steps`` of 256 further, and with ``saturation`` and
    ``value`` times as much of the others; each ``[B]`` float32."""
    hue, old_saturation, old_value = _to_hsv(images)
    hue = (hue + hue_steps.int()[:, None, None]) & 255
    return _to_rgb(
        hue,
        _scaled(old_saturation, saturation[:, None, None]),
        _scaled(old_value, value[:, None, None]),
    )


def _scaled(levels: Tensor, factor: Tensor) -> Tensor:
    return (levels * factor).round().clamp(0, 255)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, H, W, 3]`` uint8 -> hue, saturation and value, each ``[B, H, W]`` int32 from 0 to 255."""
    red, green, blue = images.int().unbind(dim=-1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation = _shifted(spread * _quotients(255, value))
    ahead = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _shifted(ahead * _quotients(256 / 6, spread))
    hue = torch.where(hue < 0, hue + 256, hue).clamp(0, 255)
    return hue, saturation, value


def _quotients(dividend: float, divisors: Tensor) -> Tensor:
    """``dividend`` over ``divisors`` from 0 to 255 as fixed-point numbers; over 0 it is 0."""
    numbers = torch.arange(256, device=divisors.device, dtype=torch.float64)
    table = (dividend * 2**_FRACTION_BITS / numbers.clamp(min=1)).round() * (numbers > 0)
    chosen: Tensor = table.int()[divisors.long()]
    return chosen


def _shifted(numbers: Tensor) -> Tensor:
    return (numbers + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value ``[B, H, W]`` from 0 to 255 -> ``[B, H, W, 3]`` uint8."""
    turned = hue.float() * (6 / _LARGEST_HUE)
    sector = turned.floor()
    part = turned - sector
    share, level = saturation * (1 / 255), value * (1 / 255)
    lowest = level * (1 - share)
    falling = level * (1 - share * part)
    rising = level * (1 - share * (1 - part))
    sector = sector.int() % 6
    red = _by_sector(sector, level, falling, lowest, lowest, rising, level)
    green = _by_sector(sector, rising, level, level, falling, lowest, lowest)
    blue = _by_sector(sector, lowest, lowest, rising, level, level, falling)
    return (torch.stack([red, green, blue], dim=-1) * 255).round().clamp(0, 255).to(torch.uint8)


def _by_sector(sector: Tensor, *colors: Tensor) -> Tensor:
    chosen = colors[-1]
    for number, color in enumerate(colors[:-1]):
        chosen = torch.where(sector == number, color, chosen)
    return chosen
