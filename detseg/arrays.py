"""Names for the array types that are handed around, and the check of an array's type and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def require_array(value: Any, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless ``value`` is an array of this type and shape, where None stands for any length."""
    # Messages are made only where they are needed: this is asked many times for each image.
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be a numpy array, got {type(value).__name__}")
    given = value.shape
    if len(given) != len(shape) or any(size not in (None, side) for size, side in zip(shape, given, strict=True)):
        wanted = "x".join("N" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape {wanted}, got {given}")
    if value.dtype != dtype:
        raise ValueError(f"{name} must be {np.dtype(dtype)}, got {value.dtype}")
