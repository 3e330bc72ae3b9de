"""Keys of dictionaries and members of sets: only kinds whose hashes are cheap and cannot be made to collide."""

from __future__ import annotations

from collections.abc import Iterable

from detseg.foreign.limits import RefusedError
from detseg.foreign.records import GlobalName, Record

_LARGEST_KEY = 2**60
"""Python hashes integers modulo 2**61 - 1: many larger ones could share a hash, and a dictionary would be slow."""
_ALLOWED = (str, bytes, float, GlobalName, Record)
_LARGEST_IN_TUPLE = 2**20
_MAX_TUPLE_LENGTH = 3
"""So few and small numbers in a tuple that there are no more of them than hashes."""


def set_pairs(target: dict[object, object], pairs: Iterable[tuple[object, object]]) -> None:
    """``target[key] = value`` for each pair. Raises RefusedError: a key is of a kind that is not allowed."""
    for key, value in pairs:
        _check_key(key)
        target[key] = value


def add_to_set(target: set[object], values: Iterable[object]) -> None:
    """Add each of ``values``. Raises RefusedError: a value is of a kind that is not allowed."""
    for value in values:
        _check_key(value)
        target.add(value)


def _check_key(key: object) -> None:
    if key is None or isinstance(key, _ALLOWED):
        return
    if isinstance(key, int) and abs(key) < _LARGEST_KEY:
        return
    if isinstance(key, tuple) and len(key) <= _MAX_TUPLE_LENGTH and all(map(_is_simple, key)):
        return
    what = "a large integer" if isinstance(key, int) else f"a {type(key).__name__}"
    raise RefusedError(
        f"{what} as the key of a dictionary or in a set; text, numbers and short tuples of them are allowed"
    )


def _is_simple(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, int) and abs(part) < _LARGEST_IN_TUPLE)
