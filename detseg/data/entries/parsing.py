"""Small parsers for values from annotation files, which never raise; and how messages show what was received."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from detseg.config_files import shorten

MAX_COORDINATE = 1e8
"""Beyond this pycocotools crashes on polygons, and no image is so large."""

_DIGITS = re.compile(r"-?[0-9]{1,18}")

FourNumbers = tuple[float, float, float, float]


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value from JSON is an integer of at most 64 bits; true and false are none."""
    return type(value) is int and abs(value) < 2**63


def as_integer(value: object) -> int | None:
    """The integer that a value from JSON is, or is written as: 7, 7.0 and ``"7"``; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value if is_integer(value) else None


def is_coordinate(value: object) -> bool:
    """Whether a value is a number under ``MAX_COORDINATE``, which infinity and NaN are not."""
    return (type(value) is float or type(value) is int) and abs(value) < MAX_COORDINATE


def parse_number(text: str | None) -> float | None:
    """The finite number that ``text`` is, else None."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_integer(text: str | None) -> int | str | None:
    """The integer that ``text`` is, else ``text`` itself, to be shown."""
    number = parse_number(text)
    return int(number) if number is not None and number == int(number) else text


def four_numbers(values: object) -> FourNumbers | None:
    """``values`` as four floats if it is a list or tuple of four numbers under ``MAX_COORDINATE``, else None."""
    if not isinstance(values, (list, tuple)) or len(values) != 4:
        return None
    if not all(map(is_coordinate, values)):
        return None
    first, second, third, fourth = (float(one) for one in values)
    return first, second, third, fourth


def show(value: object) -> str:
    """A value as it was received, shortened for a message."""
    return shorten(repr(value))


def show_key(record: Mapping[str, Any], key: str) -> str:
    """What ``record`` has under ``key``, for a message."""
    return show(record[key]) if key in record else "no such key"


def enumerate_some(values: Iterable[object]) -> str:
    """The first twenty values in words."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:20]) + (f", ... ({len(texts)} in all)" if len(texts) > 20 else "") if texts else "none"
