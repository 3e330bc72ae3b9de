"""What the boxes of an MP4 or QuickTime file say of how its images are shown (ISO/IEC 14496-12): turned or mirrored,
how wide a pixel is, how colors are coded; read and written without a decoder."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detseg.arrays import ByteArray
from detseg.files import open_regular
from detseg.runtime.media.video_colors import ColorTags

Matrix = tuple[tuple[int, int], tuple[int, int]]
"""Where a step to the right, then one down, of what is stored leads to: (to the right, down), in units of 1 / 65536."""

_ONE = 1 << 16
_MOST = 64 << 20
"""A table of contents of more bytes, some ten days of video, is not looked into."""
_MATRIX_FROM_END = {b"mvhd": 64, b"tkhd": 44}
_VISUAL_HEADER = 78
"""Bytes of a sample entry before the boxes in it."""
_WRAPPERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def read_mirrored(path: Path | str) -> Matrix | None:
    """The matrix by which the images of the video ``path`` are shown, if it mirrors them; None where it does not, or
    the file is no MP4."""
    try:
        with open_regular(path) as stream:
            movie = _movie(stream)
    except OSError:
        return None
    if movie is None:
        return None
    whole = next((_matrix(movie, part) for part in _find(movie, slice(0, len(movie)), b"mvhd")), None)
    for track in _find(movie, slice(0, len(movie)), b"trak"):
        for media in _find(movie, track, b"mdia"):
            is_video = any(movie[part][8:12] == b"vide" for part in _find(movie, media, b"hdlr"))
            header = next(_find(movie, track, b"tkhd"), None)
            own = _matrix(movie, header) if header is not None else None
            if is_video and own is not None:
                return _mirrored(own, whole)
    return None


def shown(image: ByteArray, matrix: Matrix) -> ByteArray:
    """``image`` ``[H, W, 3]`` as ``matrix`` shows it, in quarter turns."""
    (right_x, right_y), (down_x, down_y) = matrix
    is_turned = abs(right_y) > abs(right_x)
    if is_turned:
        image = image.transpose(1, 0, 2)
    if (down_x if is_turned else right_x) < 0:
        image = image[:, ::-1]
    if (right_y if is_turned else down_y) < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def is_turned(matrix: Matrix) -> bool:
    """Whether ``matrix`` lets width and height change places."""
    return abs(matrix[0][1]) > abs(matrix[0][0])


def write_tags(path: Path | str, colors: ColorTags, pixel_aspect: Fraction) -> None:
    """Say in the MP4 ``path``, whose table of contents is at its end, how its colors are coded, and how wide its pixels
    are for their height.

    Raises:
        OSError: the file is none that OpenCV writes.
    """
    with Path(path).open("r+b") as file:
        start = next((start for start, name, _ in _boxes_of(file) if name == b"moov"), None)
        if start is None:
            raise OSError(f"{path}: has no table of contents")
        file.seek(start)
        movie = file.read()
        file.seek(start)
        file.write(_tagged(movie, colors, pixel_aspect))
        file.truncate()


def _tagged(boxes: bytes, colors: ColorTags, pixel_aspect: Fraction) -> bytes:
    """``boxes`` with the tags, wherever one of them describes images."""
    made = []
    for name, body in _split(boxes):
        if name in _WRAPPERS:
            body = _tagged(body, colors, pixel_aspect)
        elif name == b"tkhd":
            width = struct.unpack(">I", body[-8:-4])[0]
            body = body[:-8] + struct.pack(">I", min(round(width * pixel_aspect), 2**32 - 1)) + body[-4:]
        elif name == b"stsd":
            body = body[:8] + b"".join(
                _box(codec, _described(entry, colors, pixel_aspect)) for codec, entry in _split(body[8:])
            )
        made.append(_box(name, body))
    return b"".join(made)


def _described(entry: bytes, colors: ColorTags, pixel_aspect: Fraction) -> bytes:
    kept = [(name, body) for name, body in _split(entry[_VISUAL_HEADER:]) if name not in (b"colr", b"pasp")]
    codes = struct.pack(">3HB", colors.primaries, colors.transfer, colors.matrix, 0x80 * colors.is_full)
    aspect = struct.pack(">2I", pixel_aspect.numerator, pixel_aspect.denominator)
    added = [(b"colr", b"nclx" + codes), (b"pasp", aspect)]
    return entry[:_VISUAL_HEADER] + b"".join(_box(name, body) for name, body in kept + added)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def _split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each of the boxes that ``data`` consists of."""
    position = 0
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if length < 8:
            return
        yield name, data[position + 8 : position + length]
        position += length


def _boxes_of(stream: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Where each box of the file begins, its name and its length."""
    position, size = 0, os.fstat(stream.fileno()).st_size
    while position + 8 <= size:
        stream.seek(position)
        length, name = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            length = int.from_bytes(stream.read(8), "big")
        elif length == 0:
            length = size - position
        if length < 8:
            return
        yield position, name, length
        position += length


def _movie(stream: BinaryIO) -> bytes | None:
    """The body of the table of contents."""
    if stream.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return None
    for start, name, length in _boxes_of(stream):
        if name == b"moov" and length <= _MOST:
            stream.seek(start + 8)
            return stream.read(length - 8)
    return None


def _find(data: bytes, inside: slice, name: bytes) -> Iterator[slice]:
    """Where the bodies of the boxes called ``name`` are, of those that lie directly ``inside``."""
    position = inside.start
    while position + 8 <= inside.stop:
        length, found = struct.unpack_from(">I4s", data, position)
        if length < 8 or position + length > inside.stop:
            return
        if found == name:
            yield slice(position + 8, position + length)
        position += length


def _matrix(data: bytes, header: slice) -> Matrix | None:
    """The matrix in an ``mvhd`` or ``tkhd``, whose body is at ``header``."""
    from_end = _MATRIX_FROM_END[data[header.start - 4 : header.start]]
    if header.stop - from_end < header.start:
        return None
    right_x, right_y, _, down_x, down_y = struct.unpack_from(">5i", data, header.stop - from_end)
    return (right_x, right_y), (down_x, down_y)


def _mirrored(own: Matrix, whole: Matrix | None) -> Matrix | None:
    product = np.array(own, object) @ np.array(whole or ((_ONE, 0), (0, _ONE)), object) // _ONE
    (right_x, right_y), (down_x, down_y) = product.tolist()
    if right_x * down_y - right_y * down_x >= 0:
        return None
    return (right_x, right_y), (down_x, down_y)
