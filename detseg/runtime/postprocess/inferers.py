"""Networks that look at images and volumes window by window, and in several views (test-time augmentation).

:class:`Inferer` holds what is the same for arrays and tensors. :class:`ArrayInferer` serve deployment without torch,
the ``TensorInferer`` of ``detseg.ops.inferers`` everything else.

Shapes: ``B`` images, ``C`` channels, ``K`` classes, ``H``, ``W`` height and width, ``h``, ``w`` those of a network's
output, ``n`` windows of one call; ``*spatial`` is height and width, or depth, height and width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice, product
from typing import Any, Generic, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import FloatArray, IntArray
from detseg.runtime.inputs.volume_geometry import SUMS_BYTES, resample, resample_axis
from detseg.runtime.postprocess.config import Weighting

Array = TypeVar("Array")

_SIGMA_SHARE = 1 / 8
_SMALLEST_WEIGHT = 1e-3
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


class Inferer(ABC, Generic[Array]):
    """Averages over windows and views, for the arrays of a library.

    Everything is made where the images are: a copy from the host could not be captured in a CUDA graph.
    """

    library: Any
    """The module ``numpy`` or ``torch``, for what both do by the same names."""

    @abstractmethod
    def to_float32(self, array: Array) -> Array:
        """``array`` as float32."""

    @abstractmethod
    def pad(self, images: Array, amounts: Sequence[tuple[int, int]]) -> Array:
        """``images`` with so many zeros before and after them along each spatial axis."""

    @abstractmethod
    def add_product(self, total: Array, values: Array, weights: Array) -> None:
        """Add ``values * weights`` to ``total``, in place."""

    @abstractmethod
    def resize(self, maps: Array, height: int, width: int) -> Array:
        """``[B, C, h, w]`` -> ``[B, C, height, width]`` of the same type: linear, and smoothed where it shrinks, as
        training images are too. Maps of this size already stay what they are."""

    @abstractmethod
    def resample_axis(self, array: Array, axis: int, positions: IntArray, weights: FloatArray) -> Array:
        """The sums over ``k`` of what ``array`` has at ``positions[k]`` along an axis, times ``weights[k]``."""

    @abstractmethod
    def to_host(self, array: Array) -> NDArray[Any]:
        """``array`` as one of numpy."""

    @abstractmethod
    def sums_bytes(self, device: Any) -> int:
        """How much memory sums over windows of a volume may take on ``device``."""

    @abstractmethod
    def softmax(self, logits: Array) -> Array:
        """Class probabilities of ``logits`` ``[B, K, ...]``."""

    @abstractmethod
    def sigmoid(self, logits: Array) -> Array:
        """That of each logit by itself, in memory of its own."""

    @abstractmethod
    def largest(self, values: Array) -> Array:
        """The largest over the classes ``[B, K, ...]``."""

    def sliding_window(
        self,
        predict: Callable[[Array], Array],
        images: Array,
        window: tuple[int, ...],
        overlap: float,
        *,
        weighting: Weighting = "uniform",
        batch_size: int = 4,
    ) -> Array:
        """Predictions ``[B, K, *spatial]`` float32 for ``images`` ``[B, C, *spatial]``, averaged where windows overlap.

        ``predict`` maps ``[n, C, *window]`` to ``[n, K, *window]``, with ``n`` up to ``batch_size``. ``gaussian``
        weights a window's middle more than its border, with a standard deviation of an eighth of the window (nnU-Net,
        Isensee et al., Nature Methods 2021). Images smaller than the window are padded with zeros on both sides, and
        the result is cut back to their size. Memory: the result, and the windows of a single call.

        Raises:
            ValueError: for an impossible window, overlap, weighting or batch size, and if ``predict`` gives another
                size.
        """
        padded: Any = images
        spatial = tuple(padded.shape[2:])
        if not spatial or len(window) != len(spatial):
            raise ValueError(
                f"window must have one size per spatial axis: got {window} for images of shape {tuple(padded.shape)}"
            )
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(padded) == 0:
            raise ValueError("sliding_window needs at least one image, got none")
        starts = [window_starts(*axis, overlap) for axis in zip(spatial, window, strict=True)]
        missing = [max(0, side - length) for length, side in zip(spatial, window, strict=True)]
        before = [amount // 2 for amount in missing]
        if any(missing):
            padded = self.pad(images, [(first, amount - first) for first, amount in zip(before, missing, strict=True)])
        weights = self.window_weights(window, weighting, padded.device)
        total, covered = None, self.zeros(padded.shape[2:], padded.device)
        places = ((image, slices(corner, window)) for image in range(len(padded)) for corner in product(*starts))
        while chunk := list(islice(places, batch_size)):
            predictions: Any = predict(self.library.stack([padded[image][:, *where] for image, where in chunk]))
            _require_size(tuple(predictions.shape), len(chunk), window)
            if total is None:
                total = self.zeros((len(padded), predictions.shape[1], *covered.shape), padded.device)
            for (image, where), prediction in zip(chunk, predictions, strict=True):
                self.add_product(total[image][:, *where], self.to_float32(prediction), weights)
                if image == 0:
                    covered[where] += weights
        assert total is not None
        total /= covered
        averaged: Array = total[:, :, *slices(before, spatial)]
        return averaged

    def average_over_tta(
        self,
        predict: Callable[[Array], Array],
        images: Array,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> Array:
        """Mean class probabilities ``[B, K, H, W]`` float32 of ``images`` ``[B, C, H, W]`` over the views.

        One view per factor in ``scales``; with ``flip`` also the mirror image (left to right) of each. ``predict`` maps
        ``[B, C, ...]`` to logits ``[B, K, h, w]`` of any size; these are resized to ``H x W`` before the softmax. With
        a single view at scale 1 the arg-max is that of the logits themselves, save where two differ by less than
        float32 probabilities can tell.

        A scaled image has its sides rounded to whole pixels and at least 32 of them, unless the image itself is
        smaller.

        Raises:
            ValueError: if there are no scales, if one is not positive and finite, or if ``predict`` gives no such
                logits.
        """
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales must be one or more positive factors, such as [0.75, 1.0, 1.25]; got {[*scales]}")
        count, _, height, width = images.shape  # type: ignore[attr-defined]
        total: Any = None
        for scale in scales:
            view = self.resize(images, _scaled(height, scale), _scaled(width, scale))
            for axes in ((), (-1,)) if flip else ((),):
                logits: Any = predict(self.flipped(view, axes))
                if logits.ndim != 4 or len(logits) != count:
                    raise ValueError(f"predict must give logits [{count}, K, h, w], it gave {[*logits.shape]}")
                logits = self.to_float32(self.flipped(logits, axes))
                probabilities: Any = self.softmax(self.resize(logits, height, width))
                total = probabilities if total is None else total + probabilities
        mean: Array = total / (len(scales) * (2 if flip else 1))
        return mean

    def probabilities(self, logits: Array, *, nested: bool = False) -> Array:
        """Those of the classes ``[B, K, ...]`` float32: a softmax, or where classes are ``nested`` regions a sigmoid of
        each but the first, the background, which has what the most probable region leaves."""
        if not nested:
            return self.softmax(logits)
        values: Any = self.sigmoid(logits)
        largest: Any = self.largest(values[:, 1:])
        values[:, 0] = 1 - largest
        made: Array = values
        return made

    def average_over_flips(
        self, predict: Callable[[Array], Array], images: Array, axes: Sequence[int], *, nested: bool = False
    ) -> Array:
        """Mean class probabilities ``[B, K, *spatial]`` float32 over ``images`` ``[B, C, *spatial]`` and their mirror
        images along the spatial ``axes``, counted from 0, and every combination of them: eight views for three axes.

        ``predict`` maps ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``; ``nested``: see :meth:`probabilities`.
        """
        total: Any = None
        for chosen in product((False, True), repeat=len(axes)):
            mirrored = tuple(2 + axis for axis, is_mirrored in zip(axes, chosen, strict=True) if is_mirrored)
            logits = self.to_float32(predict(self.flipped(images, mirrored)))
            probabilities = self.flipped(self.probabilities(logits, nested=nested), mirrored)
            total = probabilities if total is None else total + probabilities
        mean: Array = total / 2 ** len(axes)
        return mean

    def flipped(self, array: Array, axes: tuple[int, ...]) -> Array:
        """``array`` mirrored along ``axes``."""
        flipped: Array = self.library.flip(array, axes) if axes else array
        return flipped

    def zeros(self, shape: Sequence[int], device: Any) -> Any:
        """Zeros, float32."""
        return self.library.zeros(tuple(shape), dtype=self.library.float32, device=device)

    def window_weights(self, window: tuple[int, ...], weighting: Weighting, device: Any) -> Any:
        """The weight ``[*window]`` of each position: 1, or a Gaussian about the middle."""
        weights = self.zeros(window, device) + 1
        if weighting == "uniform":
            return weights
        for axis, side in enumerate(window):
            distance = self.library.arange(side, dtype=self.library.float32, device=device) - (side - 1) / 2
            profile = self.library.exp(-0.5 * (distance / (side * _SIGMA_SHARE)) ** 2)
            weights *= profile.reshape([-1 if other == axis else 1 for other in range(len(window))])
        return weights.clip(min=_SMALLEST_WEIGHT)


class ArrayInferer(Inferer[FloatArray]):
    """In numpy."""

    library = np

    def to_float32(self, array: FloatArray) -> FloatArray:
        """``array`` as float32."""
        return array.astype(np.float32, copy=False)

    def pad(self, images: FloatArray, amounts: Sequence[tuple[int, int]]) -> FloatArray:
        """``images`` with zeros around."""
        return np.pad(images, [(0, 0), (0, 0), *amounts])

    def add_product(self, total: FloatArray, values: FloatArray, weights: FloatArray) -> None:
        """Add ``values * weights`` to ``total``, in place."""
        total += values * weights

    def resize(self, maps: FloatArray, height: int, width: int) -> FloatArray:
        """``[B, C, h, w]`` -> ``[B, C, height, width]``."""
        if maps.shape[2:] == (height, width):
            return maps
        return np.stack([resample(image, (len(image), height, width)) for image in maps])

    def resample_axis(self, array: FloatArray, axis: int, positions: IntArray, weights: FloatArray) -> FloatArray:
        """The sums over ``k`` of ``array`` at ``positions[k]`` along an axis, times ``weights[k]``."""
        return resample_axis(array, axis, positions, weights)

    def to_host(self, array: FloatArray) -> NDArray[Any]:
        """As it is."""
        return array

    def sums_bytes(self, device: Any) -> int:
        """How much memory sums over windows may take."""
        return SUMS_BYTES

    def softmax(self, logits: FloatArray) -> FloatArray:
        """Class probabilities of ``logits`` ``[B, K, ...]``."""
        values: FloatArray = logits - logits.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
        return values

    def sigmoid(self, logits: FloatArray) -> FloatArray:
        """That of each logit by itself."""
        # Of large negative numbers the exponential would overflow.
        values: FloatArray = np.exp(-np.abs(logits))
        return np.asarray(np.where(logits >= 0, 1, values) / (1 + values), np.float32)

    def largest(self, values: FloatArray) -> FloatArray:
        """The largest over the classes ``[B, K, ...]``."""
        found: FloatArray = values.max(axis=1)
        return found


def slices(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """What cuts out a block of this ``size``, with its first position at ``corner``."""
    return tuple(slice(first, first + length) for first, length in zip(corner, size, strict=True))


def _scaled(side: int, scale: float) -> int:
    return max(min(side, _SMALLEST_SIDE), round(side * scale))


def _require_size(found: tuple[int, ...], count: int, window: tuple[int, ...]) -> None:
    if len(found) != len(window) + 2 or (found[0], *found[2:]) != (count, *window):
        sizes = ", ".join(map(str, window))
        raise ValueError(
            f"predict must give one map per window, of the window's size: [{count}, K, {sizes}]; it gave {[*found]}"
        )


ARRAY_INFERER = ArrayInferer()
sliding_window, average_over_tta, average_over_flips = (
    ARRAY_INFERER.sliding_window,
    ARRAY_INFERER.average_over_tta,
    ARRAY_INFERER.average_over_flips,
)
softmax = ARRAY_INFERER.softmax
probabilities_of = ARRAY_INFERER.probabilities
