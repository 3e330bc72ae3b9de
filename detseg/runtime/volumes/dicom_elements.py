"""What DICOM files say of their lengths (DICOM PS3.5, section 7), looked at before GDCM takes memory by them.

GDCM asks the system for as many bytes as an element claims to have, up to four gigabytes, and then reads.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path

from detseg.files import open_regular
from detseg.runtime.volumes.nifti_header import VolumeError

_BEGIN = 132
"""Behind the preamble and ``DICM``."""
_IMPLICIT, _BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Kinds of values whose lengths take four bytes."""
_SYNTAX, _PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 32
_MOST_INFLATED = 2**28


class _DamagedError(ValueError):
    pass


def require_lengths(path: Path) -> None:
    """Go through all elements of the DICOM file ``path``, those in sequences too. Errors begin with its folder, which
    is the volume.

    Raises:
        VolumeError: one claims to be longer than the file or the sequence it is in, or the file cannot be read.
    """
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).run()
    except (OSError, ValueError) as error:  # also what is empty
        raise VolumeError(f"{path.parent}: {path.name} is damaged, or no DICOM file: {error}") from error


def _inflated(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, _MOST_INFLATED)
    except zlib.error as error:
        raise _DamagedError(f"what is deflated is damaged: {error}") from error
    if not unpacker.eof and len(data) == _MOST_INFLATED:
        raise _DamagedError(f"it inflates to more than {_MOST_INFLATED:,} bytes; save it with another transfer syntax")
    if not unpacker.eof:
        raise _DamagedError("what is deflated does not end")
    return data


class _Walk:
    """A walk over ``data``; what is called from and to are positions in it."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data: mmap.mmap | bytes = data
        self._order = "<"
        self._is_explicit = True

    def run(self) -> None:
        """Raises _DamagedError: it does not get to the end."""
        syntax, position = b"", _BEGIN
        while self._data[position : position + 2] == b"\x02\x00":
            tag, start, stop, _ = self._element(position, len(self._data))
            if stop is None:
                raise _DamagedError(f"an element at byte {position} has no length")
            if tag == _SYNTAX:
                syntax = self._data[start:stop].rstrip(b"\0 ")
            position = stop
        if syntax == _DEFLATED:
            position, self._data = 0, _inflated(self._data[position:])
        self._is_explicit = syntax != _IMPLICIT
        self._order = ">" if syntax == _BIG_ENDIAN else "<"
        self._elements(position, len(self._data), is_item=False, depth=0)

    def _elements(self, position: int, end: int, *, is_item: bool, depth: int) -> int:
        """Go on to ``end``, of an item whose length is not given to behind its last element; returns where that is."""
        if depth > _DEEPEST:
            raise _DamagedError("its sequences lie too deep in each other")
        while position < end:
            if depth == 0 and not any(self._data[position : min(end, position + 8)]):
                return end  # padding
            tag, start, stop, kind = self._element(position, end)
            if is_item and tag == _ITEM_END:
                return start
            is_explicit = self._is_explicit
            if kind == b"UN" and stop is None:  # its content is always so
                self._is_explicit = False
            if stop is None:
                position = self._items(start, end, has_end=True, of_pixels=tag == _PIXELS, depth=depth)
            else:
                if tag != _PIXELS and kind in (b"", b"SQ", b"UN") and self._begins_item(start, stop):
                    self._items(start, stop, has_end=False, of_pixels=False, depth=depth)
                position = stop
            self._is_explicit = is_explicit
        if is_item:
            raise _DamagedError("an item does not end")
        return position

    def _items(self, position: int, end: int, *, has_end: bool, of_pixels: bool, depth: int) -> int:
        """Go through the items of a sequence, to ``end``, or with ``has_end`` behind what ends it."""
        while position < end:
            tag, start, stop, _ = self._element(position, end)
            if has_end and tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise _DamagedError(f"no item of a sequence at byte {position}")
            if stop is None:
                position = self._elements(start, end, is_item=True, depth=depth + 1)
            else:
                if not of_pixels:
                    self._elements(start, stop, is_item=False, depth=depth + 1)
                position = stop
        if has_end:
            raise _DamagedError("a sequence does not end")
        return position

    def _element(self, position: int, end: int) -> tuple[tuple[int, int], int, int | None, bytes]:
        """The tag of what begins at ``position``, from where to where its value is, None where it does not say, and its
        kind, where that is told."""
        kind = b""
        try:
            tag = struct.unpack_from(f"{self._order}HH", self._data, position)
            start = position + 8
            if self._is_explicit and tag[0] != _ITEM[0]:
                kind = self._data[position + 4 : position + 6]
                if not (kind.isalpha() and kind.isupper()):
                    kind = b""  # some programs mix both forms, and GDCM reads that
                start += 4 * (kind in _LONG)
            size = "H" if kind and kind not in _LONG else "I"
            (length,) = struct.unpack_from(self._order + size, self._data, start - struct.calcsize(size))
        except struct.error as error:
            raise _DamagedError(f"it ends within an element at byte {position}") from error
        if length == _UNDEFINED and size == "I":
            return tag, start, None, kind
        if start + length > end:
            raise _DamagedError(
                f"an element at byte {position} claims {length:,} bytes, and {max(0, end - start):,} are there"
            )
        return tag, start, start + length, kind

    def _begins_item(self, start: int, stop: int) -> bool:
        return stop - start >= 8 and struct.unpack_from(f"{self._order}HH", self._data, start) == _ITEM
