"""Random changes of color."""

from __future__ import annotations

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.augment.config import AugmentConfig


def hsv_jitter(image: ByteArray, config: AugmentConfig, rng: np.random.Generator) -> ByteArray:
    """Shift the hue and scale saturation and value of an RGB image ``[H, W, 3]`` uint8 at random; a new image.

    One table lookup in 8-bit HSV, where OpenCV counts the hue from 0 to 179.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * (config.hsv_hue, config.hsv_saturation, config.hsv_value)
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
