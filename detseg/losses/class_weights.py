"""Weights that let rare classes count in the loss of pixels, from how often each class occurs. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from detseg.arrays import ByteArray, DoubleArray, IntArray
from detseg.structures import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class ClassHistogram:
    """How often each of C classes occurs in a number of masks; ignored pixels do not count.

    ``pixels`` ``[C]`` of each class; ``images`` ``[C]`` in which it occurs; ``pixels_of_images`` ``[C]``, all labeled
    pixels of those images. Histograms of different images add up.
    """

    pixels: IntArray
    images: IntArray
    pixels_of_images: IntArray
    num_images: int

    def __add__(self, other: ClassHistogram) -> ClassHistogram:
        """The histogram of both sets of images."""
        return ClassHistogram(
            self.pixels + other.pixels,
            self.images + other.images,
            self.pixels_of_images + other.pixels_of_images,
            self.num_images + other.num_images,
        )


def class_histogram(masks: Iterable[ByteArray], num_classes: int) -> ClassHistogram:
    """Count the classes in ``masks``, each ``[H, W]`` uint8 class positions with ``IGNORE_INDEX``, of any size.

    Raises:
        ValueError: a mask holds a value that is neither a class position nor ``IGNORE_INDEX``.
    """
    pixels, images, pixels_of_images = (np.zeros(num_classes, np.int64) for _ in range(3))
    num_images = 0
    for mask in masks:
        counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
        unknown = np.flatnonzero(counts[num_classes:IGNORE_INDEX]) + num_classes
        if len(unknown):
            raise ValueError(f"label {unknown[0]} in the mask, allowed 0 to {num_classes - 1} and {IGNORE_INDEX}")
        counts = counts[:num_classes]
        pixels += counts
        images += counts > 0
        pixels_of_images += np.where(counts > 0, counts.sum(), 0)
        num_images += 1
    return ClassHistogram(pixels, images, pixels_of_images, num_images)


def enet_weights(histogram: ClassHistogram, c: float = 1.02) -> DoubleArray:
    """``[C]`` weights ``1 / ln(c + p)`` where p is the class's share of all labeled pixels (ENet, arXiv 1606.02147,
    section 5.1). The published c bounds them by 1.4 and 50.5.

    A class that never occurs weighs 0: no pixel could carry its weight, and label smoothing must not push predictions
    toward a class of which there is no example.

    Raises:
        ValueError: there is no labeled pixel, or ``c`` is not above 1.
    """
    if c <= 1:
        raise ValueError(f"c must be above 1, so that every weight is positive, got {c}")
    _require_pixels(histogram)
    share = histogram.pixels / histogram.pixels.sum()
    return np.where(histogram.pixels > 0, 1 / np.log(c + share), 0.0)


def median_frequency_weights(histogram: ClassHistogram) -> DoubleArray:
    """``[C]`` weights ``median of the frequencies / frequency``, where a class's frequency is its share of the labeled
    pixels of the images that hold it (Eigen and Fergus, arXiv 1411.4734, section 6.3.2).

    A class that never occurs has no frequency: it is left out of the median and weighs 0, as in :func:`enet_weights`.

    Raises:
        ValueError: there is no labeled pixel.
    """
    _require_pixels(histogram)
    occurs = histogram.pixels > 0
    frequency = histogram.pixels[occurs] / histogram.pixels_of_images[occurs]
    weights = np.zeros(len(occurs))
    weights[occurs] = np.median(frequency) / frequency
    return weights


WEIGHT_RULES: dict[str, Callable[[ClassHistogram], DoubleArray]] = {
    "enet": enet_weights,
    "median_frequency": median_frequency_weights,
}
"""The rules that take class weights from the data, by the name that a configuration gives them."""


def _require_pixels(histogram: ClassHistogram) -> None:
    if not histogram.pixels.any():
        raise ValueError(
            f"no labeled pixel in {histogram.num_images} masks: class weights cannot be taken from them; "
            "check the masks and the ignored value, or set class_weights: none"
        )
