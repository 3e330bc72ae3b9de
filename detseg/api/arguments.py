"""What the functions take, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Size = int | tuple[int, int]
"""Of an input: height and width, or one number for both."""


def pair(size: Size | None, name: str = "size") -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{name} must be height and width in pixels, such as (480, 640), or one number; got {size}")
    return sides[0], sides[1]


def given(**settings: Any) -> dict[str, Any]:
    """``settings`` without those that are None, sequences as tuples."""
    return {
        name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Keys and plain values as ``key=value``, the value as YAML."""
    import json

    return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
