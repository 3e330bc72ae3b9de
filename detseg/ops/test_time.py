"""Segmentation averaged over several views of an image or volume: scaled and mirrored.

Shapes: ``B`` images, ``K`` classes, ``H``, ``W`` their size, ``h``, ``w`` that of a model's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch.nn.functional as F
from torch import Tensor

_SMALLEST_SIDE = 32
"""No image is shrunk below this: what is left of it would be a single position at a stride of 32."""


def average_over_views(
    predict: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Mean class probabilities ``[B, K, H, W]`` float32 of ``images`` ``[B, 3, H, W]`` over the views.

    One view per factor in ``scales``; with ``flip`` also the mirror image (left to right) of each. ``predict`` maps
    ``[B, 3, ...]`` to logits ``[B, K, h, w]`` of any size; these are resized to ``H x W`` before the softmax. With a
    single view at scale 1 the arg-max is that of the logits themselves, save where two differ by less than float32
    probabilities can tell.

    A scaled image has its sides rounded to whole pixels and at least 32 of them, unless the image itself is smaller.

    Raises:
        ValueError: if there are no scales, if one is not positive and finite, or if ``predict`` gives no such logits.
    """
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be one or more positive factors, such as [0.75, 1.0, 1.25]; got {list(scales)}")
    height, width = images.shape[2:]
    total = None
    for scale in scales:
        view = _resize(images, _scaled(height, scale), _scaled(width, scale))
        for mirrored in (False, True) if flip else (False,):
            logits = predict(view.flip(-1) if mirrored else view)
            if logits.ndim != 4 or len(logits) != len(images):
                raise ValueError(f"predict must give logits [{len(images)}, K, h, w], it gave {list(logits.shape)}")
            logits = _resize((logits.flip(-1) if mirrored else logits).float(), height, width)
            probabilities = logits.softmax(dim=1)
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))


def average_over_flips(predict: Callable[[Tensor], Tensor], images: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean class probabilities ``[B, K, *spatial]`` float32 over ``images`` ``[B, C, *spatial]`` and their mirror
    images along the spatial ``axes``, counted from 0, and every combination of them: eight views for three axes.

    ``predict`` maps ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``.
    """
    total: Tensor | None = None
    for chosen in product((False, True), repeat=len(axes)):
        mirrored = [2 + axis for axis, is_mirrored in zip(axes, chosen, strict=True) if is_mirrored]
        probabilities = predict(images.flip(mirrored)).float().softmax(dim=1).flip(mirrored)
        total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / float(2 ** len(axes))


def _scaled(side: int, scale: float) -> int:
    return max(min(side, _SMALLEST_SIDE), round(side * scale))


def _resize(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[2:] == (height, width):
        return maps
    # Smoothing before shrinking, as training images are shrunk too; where nothing shrinks it changes nothing.
    return F.interpolate(maps.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True).to(
        maps.dtype
    )
