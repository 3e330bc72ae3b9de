"""Images straight into the float input of a network: resized, placed and normalized in one pass each.

The values are those of :func:`detseg.runtime.geometry.letterbox`, then ``(pixel - mean) / std`` in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.geometry import InputSpec, check_image, placement_of
from detseg.structures import Placement


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

    def new_batch(self, batch_size: int) -> FloatArray:
        """Memory for ``batch_size`` images, ``[B, 3, H, W]``."""
        return np.empty((batch_size, 3, self._spec.height, self._spec.width), np.float32)

    def write(self, images: Sequence[ByteArray], batch: FloatArray) -> list[Placement]:
        """Fill the first rows of ``batch`` ``[B, 3, H, W]`` with ``images``, ``[H, W, 3]`` uint8 RGB of any sizes; the
        way back for each.

        Raises:
            ValueError: an image is not ``[H, W, 3]`` uint8 with at least one pixel.
        """
        return [self._write_one(image, row) for image, row in zip(images, batch, strict=False)]

    def _write_one(self, image: ByteArray, row: FloatArray) -> Placement:
        check_image(image)
        spec = self._spec
        height, width = image.shape[:2]
        placement = placement_of(height, width, spec)
        new_height, new_width = spec.resized(height, width)
        if (new_height, new_width) != (height, width):
            image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR).astype(
                np.uint8, copy=False
            )
        top, left = int(placement.offset_y), int(placement.offset_x)
        bottom, right = top + new_height, left + new_width
        for plane, channel, table in zip(row, self._channels, self._tables, strict=True):
            padding = table[spec.pad_value]
            plane[:top], plane[bottom:] = padding, padding
            plane[top:bottom, :left], plane[top:bottom, right:] = padding, padding
            cv2.LUT(cv2.extractChannel(image, channel), table, dst=plane[top:bottom, left:right])
        return placement
