"""Random changes of color."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from detseg.arrays import ByteArray


@dataclass(frozen=True, slots=True)
class HsvJitter:
    """Shifts the hue of an image by up to ``hue``, a fraction of the color circle, and scales saturation and value by
    up to one more or less the other two, at random."""

    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0

    def __call__(self, image: ByteArray, rng: np.random.Generator) -> ByteArray:
        """The changed RGB image ``[H, W, 3]`` uint8, a new one unless nothing changes.

        One table lookup in 8-bit HSV, where OpenCV counts the hue from 0 to 179.
        """
        hue, saturation, value = rng.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value)
        if hue == saturation == value == 0:
            return image
        levels = np.arange(256)
        table = np.stack(
            [
                np.rint(levels + hue * 180) % 180,
                np.clip(np.rint(levels * (1 + saturation)), 0, 255),
                np.clip(np.rint(levels * (1 + value)), 0, 255),
            ],
            axis=1,
        ).astype(np.uint8)
        changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
        return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)
