"""How the intensities of each channel of a volume are normalized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from detseg.arrays import FloatArray

Intensity = Literal["zscore", "window", "ct"]


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """How a channel is normalized.

    With ``ct``, what is None is taken from the labeled structures of the training set, the window as their percentiles
    0.5 and 99.5 (nnU-Net's scheme for CT; Isensee et al., Nature Methods 2021).
    """

    name: str = ""
    """What it shows, for people."""
    intensity: Intensity = "zscore"
    """``zscore`` gives each volume mean 0 and standard deviation 1; ``window`` clips to ``window`` and maps it to [-1,
    1]; ``ct`` clips to ``window``, subtracts ``mean`` and divides by ``deviation``."""
    window: tuple[float, float] | None = None
    """Lower and upper intensity where ``intensity`` is ``window`` or ``ct``, such as Hounsfield units of CT."""
    mean: float | None = None
    """What ``ct`` subtracts."""
    deviation: float | None = None
    """What ``ct`` divides by."""

    def __post_init__(self) -> None:
        if self.intensity not in get_args(Intensity):
            raise ValueError(f"intensity must be one of {', '.join(get_args(Intensity))}, got {self.intensity!r}")
        if self.intensity == "zscore" and self.window is not None:
            raise ValueError(f"a window belongs to intensity window, but intensity is zscore; got window {self.window}")
        if (self.intensity == "window" or self.window is not None) and (
            self.window is None or len(self.window) != 2 or not -np.inf < self.window[0] < self.window[1] < np.inf
        ):
            raise ValueError(
                f"intensity window needs a window (lower, upper) with lower < upper, such as [-160, 240] for soft "
                f"tissue in CT; got {self.window}"
            )
        if self.intensity != "ct" and (self.mean, self.deviation) != (None, None):
            raise ValueError(f"mean and deviation belong to intensity ct, but intensity is {self.intensity}")
        if self.deviation is not None and not 0 < self.deviation < np.inf:
            raise ValueError(f"deviation must be a positive number, got {self.deviation}")

    @property
    def is_complete(self) -> bool:
        """Whether nothing has to be taken from a training set."""
        return self.intensity != "ct" or None not in (self.window, self.mean, self.deviation)


_PART_VOXELS = 2**22
"""How many voxels are normalized at a time: in doubles, a large volume would take twice its own memory."""


def normalize_channel(voxels: FloatArray, spec: ChannelSpec) -> FloatArray:
    """``voxels`` ``[X, Y, Z]`` of a whole volume as ``spec`` wants their intensities, float32. With ``zscore`` a
    constant volume becomes zeros.

    Raises:
        ValueError: ``spec`` is not complete.
    """
    normalize = normalization_of(voxels, spec)
    normalized = np.empty_like(voxels)
    for part in _parts(voxels):
        normalized[part] = normalize(voxels[part])
    return normalized


def normalization_of(voxels: FloatArray, spec: ChannelSpec) -> Callable[[FloatArray], FloatArray]:
    """What makes the normalized intensities, float32, of any part of the whole volume ``voxels`` ``[X, Y, Z]``.

    Raises:
        ValueError: ``spec`` is not complete.
    """
    if spec.intensity == "window":
        assert spec.window is not None
        lower, upper = spec.window
        return lambda part: np.asarray((np.clip(part, lower, upper) - lower) * (2 / (upper - lower)) - 1, np.float32)
    if spec.intensity == "ct":
        if spec.window is None or spec.mean is None or spec.deviation is None:
            raise ValueError("intensity ct needs window, mean and deviation, which training takes from its data set")
        window, center, scale = spec.window, spec.mean, spec.deviation
        return lambda part: np.asarray((np.clip(part, *window) - center) / scale, np.float32)
    mean = voxels.mean(dtype=np.float64)
    squares = sum(float(np.square(voxels[part] - mean).sum()) for part in _parts(voxels))
    deviation = np.float64(math.sqrt(squares / voxels.size))
    # Below this, differences are those that float32 makes of one and the same number.
    if deviation <= np.finfo(np.float32).eps * abs(mean):
        return np.zeros_like
    return lambda part: np.asarray((part - mean) / deviation, np.float32)


def _parts(voxels: FloatArray) -> Iterator[tuple[slice, slice, slice]]:
    """Indices of parts that are ``voxels`` together, across the last axis, along which a file is read last."""
    x, y, z = voxels.shape
    step = max(1, _PART_VOXELS // (x * y))
    for first in range(0, z, step):
        yield slice(None), slice(None), slice(first, first + step)
