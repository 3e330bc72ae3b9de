"""Random changes of color."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from detseg.arrays import ByteArray


@dataclass(frozen=True, slots=True)
class HsvShift:
    """The hue of an image ``hue_steps`` of 256 further around the color circle, its saturation and value times as much.

    In 8-bit HSV whose hue goes around in 256 steps, so that it wraps as bytes do.
    """

    hue_steps: int
    saturation: float
    value: float

    def __call__(self, image: ByteArray) -> ByteArray:
        """The changed RGB image ``[H, W, 3]`` uint8, a new one."""
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        if self.hue_steps:
            # One addition of rows is five times as fast as one of every third byte.
            shifts = np.tile(np.array([self.hue_steps, 0, 0], np.uint8), image.shape[1])
            rows = hsv.reshape(image.shape[0], -1)
            np.add(rows, shifts, out=rows)
        # A table for each channel would take four times as long.
        cv2.transform(hsv, np.diag([1, self.saturation, self.value]), dst=hsv)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv).astype(np.uint8, copy=False)


@dataclass(frozen=True, slots=True)
class HsvJitter:
    """Shifts the hue of an image by up to ``hue``, a fraction of the color circle, and scales saturation and value by
    up to one more or less the other two, at random."""

    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0

    def draw(self, rng: np.random.Generator) -> HsvShift | None:
        """A random shift; None if nothing changes."""
        hue, saturation, value = (rng.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value)).tolist()
        if hue == saturation == value == 0:
            return None
        return HsvShift(round(hue * 256) % 256, 1 + saturation, 1 + value)

    def __call__(self, image: ByteArray, rng: np.random.Generator) -> ByteArray:
        """The changed RGB image ``[H, W, 3]`` uint8, a new one unless nothing changes."""
        shift = self.draw(rng)
        return image if shift is None else shift(image)
