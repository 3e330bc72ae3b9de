"""Networks looked at images and volumes window by window and in several views, in numpy: what ``detseg.ops`` does with
tensors (``sliding_window``, ``average_over_views``, ``average_over_flips``), for deployment without torch.

Shapes: B images, C channels, K classes, n windows of one call; ``*spatial`` is height and width, or depth, height and
width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice, product

import numpy as np

from detseg.arrays import FloatArray
from detseg.runtime.inputs.volume_geometry import resample
from detseg.runtime.postprocess.config import Weighting

Network = Callable[[FloatArray], FloatArray]

SIGMA_SHARE = 1 / 8
SMALLEST_WEIGHT = 1e-3
"""The corners of a Gaussian window, exp(-24) in a volume, must not vanish in float32 where nothing else covers them."""
_SMALLEST_SIDE = 32
"""No image is shrunk below this: what is left of it would be a single position at a stride of 32."""


def window_starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """Where windows begin along an axis of ``length``, so that they cover all of it.

    Neighbors share at least ``overlap`` of a window (or all of it but one position); the last one ends where the axis
    does. An axis that is no longer than the window has the single start 0.

    Raises:
        ValueError: if the length or the window is not positive, or the overlap not in [0, 1).
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if window < 1:
        raise ValueError(f"window must be at least 1 along every axis, got {window}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be a share of the window from 0 to below 1, got {overlap}")
    step = max(1, int(window * (1 - overlap)))
    last = max(0, length - window)
    return (*range(0, last, step), last)


def sliding_window(
    predict: Network,
    images: FloatArray,
    window: Sequence[int],
    overlap: float,
    *,
    weighting: Weighting = "uniform",
    batch_size: int = 4,
) -> FloatArray:
    """Predictions ``[B, K, *spatial]`` for ``images`` ``[B, C, *spatial]``, averaged where windows overlap.

    ``predict`` maps ``[n, C, *window]`` to ``[n, K, *window]``, with ``n`` up to ``batch_size``. ``gaussian`` weights a
    window's middle more than its border, with a standard deviation of an eighth of the window (nnU-Net, Isensee et al.,
    Nature Methods 2021). Images smaller than the window are padded with zeros on both sides, and the result is cut back
    to their size.

    Raises:
        ValueError: if ``predict`` gives another size.
    """
    spatial = images.shape[2:]
    missing = [max(0, side - length) for length, side in zip(spatial, window, strict=True)]
    before = [amount // 2 for amount in missing]
    pads = [(0, 0), (0, 0), *((first, amount - first) for first, amount in zip(before, missing, strict=True))]
    padded = np.pad(images, pads) if any(missing) else images
    weights = _window_weights(window, weighting)
    covered = np.zeros(padded.shape[2:], np.float32)
    total: FloatArray | None = None
    starts = [window_starts(length, side, overlap) for length, side in zip(spatial, window, strict=True)]
    places = ((image, _slices(corner, window)) for image in range(len(images)) for corner in product(*starts))
    while chunk := list(islice(places, batch_size)):
        predictions = predict(np.stack([padded[image][:, *where] for image, where in chunk]))
        if (len(predictions), *predictions.shape[2:]) != (len(chunk), *window):
            raise ValueError(
                f"the network must give maps of the size of its windows, {'x'.join(map(str, window))}, for each of "
                f"{len(chunk)}; it gave {'x'.join(map(str, predictions.shape))}"
            )
        if total is None:
            total = np.zeros((len(images), predictions.shape[1], *covered.shape), np.float32)
        for (image, where), prediction in zip(chunk, predictions, strict=True):
            total[image][:, *where] += prediction * weights
            if image == 0:
                covered[where] += weights
    assert total is not None, "no images"
    total /= covered
    return total[:, :, *_slices(before, spatial)]


def average_over_views(
    predict: Network, images: FloatArray, scales: Sequence[float] = (1.0,), flip: bool = False
) -> FloatArray:
    """Mean class probabilities ``[B, K, H, W]`` of ``images`` ``[B, C, H, W]`` over their copies at these ``scales``,
    with ``flip`` also mirrored left to right. ``predict`` gives logits of any size; these are resized to that of the
    images. A scaled image has at least 32 pixels along each side, unless the image itself is smaller."""
    height, width = images.shape[2:]
    total: FloatArray | None = None
    for scale in scales:
        view = _resize(images, _scaled(height, scale), _scaled(width, scale))
        for mirrored in (False, True) if flip else (False,):
            logits = predict(view[..., ::-1] if mirrored else view)
            probabilities = softmax(_resize(logits[..., ::-1] if mirrored else logits, height, width))
            total = probabilities if total is None else total + probabilities
    assert total is not None, "no scales"
    total /= np.float32(len(scales) * (2 if flip else 1))
    return total


def average_over_flips(predict: Network, images: FloatArray, axes: Sequence[int]) -> FloatArray:
    """Mean class probabilities ``[B, K, *spatial]`` over ``images`` ``[B, C, *spatial]`` and their mirror images along
    the spatial ``axes``, counted from 0, and every combination of them. ``predict`` gives logits
    ``[B, K, *spatial]``."""
    total: FloatArray | None = None
    for chosen in product((False, True), repeat=len(axes)):
        mirrored = tuple(2 + axis for axis, is_mirrored in zip(axes, chosen, strict=True) if is_mirrored)
        probabilities = np.flip(softmax(predict(np.flip(images, mirrored))), mirrored)
        total = probabilities.copy() if total is None else total + probabilities
    assert total is not None
    total /= np.float32(2 ** len(axes))
    return total


def softmax(logits: FloatArray) -> FloatArray:
    """Class probabilities of ``logits`` ``[B, K, ...]``."""
    values: FloatArray = logits - logits.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def _slices(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(corner, size, strict=True))


def _window_weights(window: Sequence[int], weighting: Weighting) -> FloatArray:
    """The weight ``[*window]`` of each position: 1, or a Gaussian about the middle."""
    weights = np.ones(tuple(window), np.float32)
    if weighting == "uniform":
        return weights
    for axis, side in enumerate(window):
        distance = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        profile = np.exp(np.float32(-0.5) * (distance / np.float32(side * SIGMA_SHARE)) ** 2)
        weights *= profile.reshape([-1 if other == axis else 1 for other in range(len(window))])
    return np.maximum(weights, SMALLEST_WEIGHT)


def _scaled(side: int, scale: float) -> int:
    assert 0 < scale < math.inf
    return max(min(side, _SMALLEST_SIDE), round(side * scale))


def _resize(maps: FloatArray, height: int, width: int) -> FloatArray:
    """``[B, C, ...]`` -> ``[B, C, height, width]``, smoothed where it shrinks."""
    if maps.shape[2:] == (height, width):
        return maps
    return np.stack([resample(image, (len(image), height, width)) for image in maps])
