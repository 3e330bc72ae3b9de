"""What the bytes of a video say of it before a decoder sees them: its container, and whether its end is missing."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from detseg.files import open_regular
from detseg.runtime.media.image_header import foreign_format

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")

ContainerFormat = Literal["AVI", "MP4", "Matroska", "MPEG-PS", "MPEG-TS"]

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067
_PACKET = 188
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True, slots=True)
class Container:
    """``num_missing`` bytes are promised and not there; formats that promise nothing (MPEG) have none."""

    format: ContainerFormat
    num_missing: int


def read_container(path: Path | str) -> Container | None:
    """The container of the file ``path``, told by its content, or None where it is none of those that are supported.

    Others are refused because some of them, play lists above all, make a decoder open other files and addresses.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(3 * _PACKET)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            return Container("AVI", _missing(_riff_ends(stream, size), size))
        if start[4:8] in _FIRST_BOXES and foreign_format(start) is None:
            return Container("MP4", _missing(_box_ends(stream, size), size))
        if start[:4] == _EBML:
            return Container("Matroska", _missing(_segment_end(start), size))
        if start[:4] == b"\x00\x00\x01\xba":
            return Container("MPEG-PS", 0)
        if len(start) == 3 * _PACKET and all(start[packet * _PACKET] == 0x47 for packet in range(3)):
            return Container("MPEG-TS", 0)
    return None


def _missing(ends: Iterator[int], size: int) -> int:
    return max(0, max(ends, default=0) - size)


def _riff_ends(stream: BinaryIO, size: int) -> Iterator[int]:
    """Where the RIFF lists of an AVI end; there are several in files of over a gigabyte."""
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        name, length = struct.unpack("<4sI", stream.read(8))
        if name != b"RIFF" or length == 0:  # something behind the video, or a writer that never filled the length in
            return
        position += 8 + length + length % 2
        yield position - length % 2


def _box_ends(stream: BinaryIO, size: int) -> Iterator[int]:
    """Where the boxes of an MP4 or QuickTime file end (ISO/IEC 14496-12)."""
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        length, _ = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            long = stream.read(8)
            if len(long) < 8:
                yield size + 8 - len(long)
                return
            length = struct.unpack(">Q", long)[0]
        if length < 8:  # 0 is "to the end of the file"; the rest means nothing
            return
        position += length
        yield position


def _segment_end(start: bytes) -> Iterator[int]:
    """Where the segment of a Matroska file ends, if it says so (RFC 8794, RFC 9559)."""
    position = 4
    header_size, position = _variable_integer(start, position)
    if header_size is None or position + header_size + 4 > len(start):
        return
    position += header_size
    if int.from_bytes(start[position : position + 4], "big") != _SEGMENT:
        return
    length, position = _variable_integer(start, position + 4)
    if length is not None:
        yield position + length


def _variable_integer(data: bytes, position: int) -> tuple[int | None, int]:
    """An EBML length and the position behind it; all ones stand for "unknown"."""
    if position >= len(data) or data[position] == 0:
        return None, position
    width = 9 - data[position].bit_length()
    value = int.from_bytes(data[position : position + width], "big") - (1 << 7 * width)
    return (None if value == (1 << 7 * width) - 1 else value), position + width
