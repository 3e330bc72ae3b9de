"""What a foreign file may ask for, and the one error that refuses it."""

from __future__ import annotations

from dataclasses import dataclass


class ForeignFileError(ValueError):
    """A foreign file cannot or may not be read; says which file, what was found in it, and what to do."""


class RefusedError(Exception):
    """Why a part of a file is refused, without the file's name: it becomes a `ForeignFileError` before it leaves."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what one file may take; by default, checkpoints of a billion parameters in half precision pass.

    Memory and time are bounded by them: no operation of a pickle makes more than a few hundred bytes, apart from
    strings, which stand in the pickle as they are, and arrays, which are views of the file's own bytes.
    """

    max_file_bytes: int = 2**31
    max_members: int = 200_000
    """Files in a zip archive."""
    max_pickle_bytes: int = 2**26
    max_operations: int = 1_000_000
    """Opcodes of a pickle; making a set or dictionary of a list counts as one for each of its elements."""
    max_stack: int = 200_000
    max_memo: int = 500_000
    max_string_bytes: int = 2**24
    max_integer_bytes: int = 64
    max_tensors: int = 100_000
    max_expansion: int = 8
    """All arrays, were each copied out, may take so many times the bytes of the file, or 64 MiB if that is more.

    Otherwise tensors that share or repeat elements would let a small file fill the memory of whoever copies them."""
    max_nesting: int = 200
    """Containers and records inside one another: whoever walks the content may do so recursively."""
    max_values: int = 4_000_000
    """Values that a walk through the content meets, where what is shared counts each time it is met."""


DEFAULT_LIMITS = Limits()
_SHOWN_CHARACTERS = 40


def brief(value: object) -> str:
    """``value`` for a message: a plain value cut to what can be shown, else its type, as a container may be endless."""
    if isinstance(value, str | bytes):
        return repr(value[:_SHOWN_CHARACTERS]) + ("..." if len(value) > _SHOWN_CHARACTERS else "")
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"
