"""Prediction window by window, for inputs larger than a network is meant to see at once: 2-D images and 3-D volumes.

Shapes: ``B`` images, ``C`` channels, ``K`` classes, ``n`` windows of one call; ``*spatial`` is height and width, or
depth, height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, product
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.runtime.postprocess.config import Weighting
from detseg.runtime.postprocess.views import SIGMA_SHARE, SMALLEST_WEIGHT, window_starts


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    window: tuple[int, ...],
    overlap: float,
    *,
    weighting: Weighting = "uniform",
    batch_size: int = 4,
) -> Tensor:
    """Predictions ``[B, K, *spatial]`` float32 for ``images`` ``[B, C, *spatial]``, averaged where windows overlap.

    ``predict`` maps ``[n, C, *window]`` to ``[n, K, *window]``, with ``n`` up to ``batch_size``. ``gaussian`` weights a
    window's middle more than its border, with a standard deviation of an eighth of the window (nnU-Net, Isensee et al.,
    Nature Methods 2021). Images smaller than the window are padded with zeros on both sides, and the result is cut back
    to their size. Memory: the result, and the windows of a single call.

    Raises:
        ValueError: for an impossible window, overlap, weighting or batch size, and if ``predict`` gives another size.
    """
    spatial = tuple(images.shape[2:])
    if not spatial or len(window) != len(spatial):
        raise ValueError(
            f"window must have one size per spatial axis: got {window} for images of shape {tuple(images.shape)}"
        )
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("sliding_window needs at least one image, got none")
    starts = [window_starts(*axis, overlap) for axis in zip(spatial, window, strict=True)]

    before = [max(0, side - length) // 2 for length, side in zip(spatial, window, strict=True)]
    after = [max(0, side - length) - first for length, side, first in zip(spatial, window, before, strict=True)]
    images = F.pad(images, [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair])
    padded = images.shape[2:]

    # Everything is made where it is needed: a copy from the host could not be captured in a CUDA graph.
    weights = _window_weights(window, weighting, images.device)
    total, covered = None, torch.zeros(padded, device=images.device)
    corners = product(range(len(images)), product(*starts))
    places = ((image, _slices(corner, window)) for image, corner in corners)
    while chunk := list(islice(places, batch_size)):
        predictions = predict(torch.stack([images[image][:, *where] for image, where in chunk]))
        _require_size(predictions, len(chunk), window)
        if total is None:
            total = torch.zeros((len(images), predictions.shape[1], *padded), device=images.device)
        for (image, where), prediction in zip(chunk, predictions, strict=True):
            total[image][:, *where].addcmul_(prediction.float(), weights)
            if image == 0:
                covered[where] += weights
    assert total is not None
    total /= covered
    return total[:, :, *_slices(before, spatial)]


def _slices(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(corner, size, strict=True))


def _window_weights(window: tuple[int, ...], weighting: Weighting, device: torch.device) -> Tensor:
    """The weight ``[*window]`` of each position: 1, or a Gaussian about the middle."""
    weights = torch.ones(window, device=device)
    if weighting == "uniform":
        return weights
    for axis, side in enumerate(window):
        distance = torch.arange(side, device=device) - (side - 1) / 2
        profile = torch.exp(-0.5 * (distance / (side * SIGMA_SHARE)) ** 2)
        weights *= profile.view([-1 if other == axis else 1 for other in range(len(window))])
    return weights.clamp(min=SMALLEST_WEIGHT)


def _require_size(predictions: Tensor, count: int, window: tuple[int, ...]) -> None:
    wanted = (count, *window)
    got = tuple(predictions.shape)
    if len(got) != len(window) + 2 or (got[0], *got[2:]) != wanted:
        sizes = ", ".join(map(str, window))
        raise ValueError(
            f"predict must give one map per window, of the window's size: [{count}, K, {sizes}]; it gave {list(got)}"
        )
