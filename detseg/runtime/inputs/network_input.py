"""Images straight into the float input of a network: resized, placed and normalized in one pass each.

The values are those of :func:`detseg.runtime.inputs.geometry.letterbox`, then ``(pixel - mean) / std`` in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.inputs.geometry import InputSpec, check_image, fit_image
from detseg.structures import LetterboxTransform


class InputWriter:
    """Writes images into batches for the input that ``spec`` describes."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        # A table of 256 values replaces conversion, subtraction and division, with the same rounding.
        levels = np.arange(256, dtype=np.float32)
        self._tables = [
            (levels - np.float32(mean)) / np.float32(std) for mean, std in zip(spec.mean, spec.std, strict=True)
        ]
        self._channels = (2, 1, 0) if spec.channel_order == "bgr" else (0, 1, 2)

    def shape(self, images: Sequence[ByteArray]) -> tuple[int, int, int, int]:
        """The shape of the batch of ``images``, ``[H, W, 3]`` uint8 RGB: ``(B, 3, H, W)`` of the input.

        Raises:
            ValueError: an image is not ``[H, W, 3]`` uint8 with at least one pixel, or their inputs differ in size.
        """
        for image in images:
            check_image(image)
        sizes = {self._spec.input_size(*image.shape[:2]) for image in images}
        if len(sizes) != 1:
            shown = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)) or "no images"
            raise ValueError(f"a batch takes images whose inputs have one size, got {shown}")
        return len(images), 3, *sizes.pop()

    def write(self, images: Sequence[ByteArray], batch: FloatArray) -> list[LetterboxTransform]:
        """Fill ``batch``, which has the :meth:`shape` of ``images``; the way back for each."""
        return [self._write_one(image, row) for image, row in zip(images, batch, strict=True)]

    def _write_one(self, image: ByteArray, row: FloatArray) -> LetterboxTransform:
        image, transform = fit_image(image, self._spec)
        top, left = int(transform.offset_y), int(transform.offset_x)
        bottom, right = top + image.shape[0], left + image.shape[1]
        for plane, channel, table in zip(row, self._channels, self._tables, strict=True):
            padding = table[self._spec.pad_value]
            plane[:top], plane[bottom:] = padding, padding
            plane[top:bottom, :left], plane[top:bottom, right:] = padding, padding
            cv2.LUT(cv2.extractChannel(image, channel), table, dst=plane[top:bottom, left:right])
        return transform
