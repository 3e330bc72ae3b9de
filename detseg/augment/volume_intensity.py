"""Random changes of the intensities of volumes, by MONAI."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)
from monai.transforms.spatial.array import RandSimulateLowResolution

from detseg.arrays import FloatArray

_SIGMAS_IN_KERNEL = 4
"""How far MONAI's Gaussian kernels reach, in standard deviations."""


@dataclass
class RandomIntensity:
    """Noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order, each with its probability;
    :class:`~detseg.augment.volume_config.VolumeAugmentConfig` says what the values mean."""

    noise: float = 0.0
    noise_std: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0
    brightness_factors: tuple[float, float] = (1.0, 1.0)
    contrast: float = 0.0
    contrast_factors: tuple[float, float] = (1.0, 1.0)
    low_resolution: float = 0.0
    low_resolution_factors: tuple[float, float] = (1.0, 1.0)
    gamma: float = 0.0
    gamma_inverted: float = 0.0
    gamma_exponents: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        # MONAI's own coins are loaded, so that a transform runs only when ours says so.
        brightness, contrast = (
            (smallest - 1, largest - 1) for smallest, largest in (self.brightness_factors, self.contrast_factors)
        )
        self._changes: list[tuple[float, Any]] = [
            (self.noise, RandGaussianNoise(prob=1.0, std=self.noise_std)),
            (self.blur, _Blur(self.blur_sigma)),
            (self.brightness, RandScaleIntensity(brightness, prob=1.0)),
            (self.contrast, RandScaleIntensityFixedMean(1.0, contrast, preserve_range=True)),
            (self.low_resolution, _low_resolution(self.low_resolution_factors)),
            (self.gamma_inverted, RandAdjustContrast(1.0, self.gamma_exponents, invert_image=True, retain_stats=True)),
            (self.gamma, RandAdjustContrast(1.0, self.gamma_exponents, retain_stats=True)),
        ]

    def __call__(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """The changed ``image`` ``[D, H, W]``; each change draws from a generator of its own."""
        coins = rng.random(len(self._changes))
        seeds = rng.integers(2**32, size=len(self._changes)).tolist()
        for (probability, change), coin, seed in zip(self._changes, coins, seeds, strict=True):
            if coin < probability:
                image = np.asarray(change.set_random_state(seed)(image[None]))[0]
        return np.ascontiguousarray(image)


class _Blur:
    """MONAI's blur takes 0 beyond the image, which fades its border; here the outermost voxels go on."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self._blur = RandGaussianSmooth(sigma, sigma, sigma, prob=1.0)
        self._margin = max(1, math.ceil(_SIGMAS_IN_KERNEL * sigma[1]))

    def set_random_state(self, seed: int) -> _Blur:
        self._blur.set_random_state(seed)
        return self

    def __call__(self, images: FloatArray) -> FloatArray:
        padded = np.pad(images, ((0, 0), *[(self._margin, self._margin)] * 3), mode="edge")
        inside = slice(self._margin, -self._margin)
        return np.asarray(self._blur(padded))[:, inside, inside, inside]


def _low_resolution(factors: tuple[float, float]) -> RandSimulateLowResolution:
    """By means of areas, as a scanner with larger voxels sees them. MONAI's default, the nearest voxel, moves the image
    by up to half a voxel of the low resolution against its labels."""
    return RandSimulateLowResolution(1.0, downsample_mode="area", zoom_range=factors)
