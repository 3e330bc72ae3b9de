"""What the header of an image file says, read without decoding: format, size, depth, EXIF orientation.

One small parser per format, so that a hostile file is refused before a decoder allocates memory for it. What a decoder
could take for another size than these parsers do is refused as well. References: ITU T.81 (JPEG), the PNG specification
(third edition), the WebP container specification, TIFF 6.0 and Exif 2.3.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

ImageFormat = Literal["JPEG", "PNG", "BMP", "WebP", "TIFF"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A marker inside entropy coded data: not a stuffed zero, not a fill byte, not a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_JPEG_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_NOT_A_FRAME = frozenset((0xC4, 0xC8, 0xCC))
_JPEG_SEQUENTIAL = frozenset((0xC0, 0xC1))
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0")
"""Of TIFF 6.0, and of BigTIFF with its offsets of 8 bytes."""
_TIFF_VALUE_FORMATS = {1: "B", 3: "H", 4: "I"}
_LONG8, _FURTHEST = 16, 2**62
_STILL_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
}  # fmt: skip
"""Images in the container that videos have, too."""
_FOREIGN = {
    b"GIF8": "GIF", b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop", b"%PDF": "PDF", b"<svg": "SVG", b"\x76\x2f\x31\x01": "OpenEXR", b"#?RADIANCE": "Radiance HDR",
}  # fmt: skip
_MAX_TIFF_ENTRIES = 4096
_BIG_TIFF = 43
_MAX_EXIF_BYTES = 1 << 20
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 274, 277, 322, 323
_MAX_TIFF_SAMPLES = 8
_MAX_TILE_PIXELS = 1 << 24
"""A tile is decoded as a whole, even if the image is smaller."""
MAX_JPEG_SCANS = 100
"""A progressive JPEG has some ten; each takes a pass over all pixels."""


class HeaderError(ValueError):
    """The header is cut off or contradicts itself."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """``height`` and ``width`` as stored, before the EXIF ``orientation`` (1 to 8) is applied; ``bits`` per channel;
    ``in_order``: rows are stored from the top to the bottom, so that some can be had without the others, and it is
    clear what their values mean."""

    format: ImageFormat
    height: int
    width: int
    bits: int = 8
    orientation: int = 1
    in_order: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(stream: BinaryIO) -> ImageHeader | None:
    """The header of the image in ``stream`` (seekable), or None if its first bytes are those of no supported format.

    Raises:
        HeaderError: the format is known, but the header is cut off or contradicts itself.
    """
    stream.seek(0)
    magic = stream.read(12)
    parser = _parser_of(magic)
    if parser is None:
        return None
    try:
        header = parser(stream)
    except struct.error as error:
        raise HeaderError("the header is cut off") from error
    if header.height < 1 or header.width < 1:
        raise HeaderError(f"the header gives an impossible size, {header.height}x{header.width}")
    return header


def foreign_format(start: bytes) -> str | None:
    """What a file that begins with ``start`` is, if that is known and no supported format, with what to do about it."""
    if start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS:
        return f"{_STILL_BRANDS[start[8:12]]}, which is not read; convert it to JPEG or PNG"
    for magic, name in _FOREIGN.items():
        if start.startswith(magic):
            return f"{name}, which is not read; convert it to {'a video or ' if name == 'GIF' else 'JPEG or '}PNG"
    return None


def is_complete(data: bytes, image_format: ImageFormat) -> bool:
    """Whether the file reaches its own end: decoders fill what is missing with gray and say nothing.

    Bytes after the end are allowed. BMP and TIFF are left to the decoder, which refuses missing rows.

    Raises:
        HeaderError: a JPEG has more than ``MAX_JPEG_SCANS`` scans, which take as many passes over all pixels.
    """
    try:
        if image_format == "JPEG":
            return _jpeg_reaches_its_end(data)
        if image_format == "PNG":
            return any(kind == b"IEND" for kind, _, _ in _png_chunks(io.BytesIO(data)))
        if image_format == "WebP":
            return int(struct.unpack_from("<I", data, 4)[0]) + 8 <= len(data)
    except struct.error:
        return False
    return True


def _parser_of(magic: bytes) -> Callable[[BinaryIO], ImageHeader] | None:
    if magic.startswith(b"\xff\xd8\xff"):
        return _parse_jpeg
    if magic.startswith(_PNG_SIGNATURE):
        return _parse_png
    if magic.startswith(b"BM"):
        return _parse_bmp
    if magic.startswith(b"RIFF") and magic[8:12] == b"WEBP":
        return _parse_webp
    if magic.startswith(_TIFF_SIGNATURES):
        return _parse_tiff
    return None


def _unpack(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, stream.read(struct.calcsize(layout)))


def _parse_jpeg(stream: BinaryIO) -> ImageHeader:
    stream.seek(2)
    orientation = 1
    while True:
        (marker,) = _unpack(stream, "B")
        if marker != 0xFF:
            raise HeaderError("a marker was expected in the header")
        while marker == 0xFF:
            (marker,) = _unpack(stream, "B")
        if marker == 0:
            raise HeaderError("a marker was expected in the header")
        if marker in _JPEG_WITHOUT_LENGTH:
            continue
        (length,) = _unpack(stream, ">H")
        if length < 2 or marker == 0xD9:
            raise HeaderError("the header ends before the size")
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NOT_A_FRAME:
            bits, height, width = _unpack(stream, ">BHH")
            return ImageHeader("JPEG", height, width, bits, orientation, marker in _JPEG_SEQUENTIAL)
        if marker == 0xDA:
            raise HeaderError("the header ends before the size")
        after = stream.tell() + length - 2
        if marker == 0xE1 and orientation == 1:
            orientation = _exif_orientation(stream.read(length - 2))
        stream.seek(after)


def _jpeg_reaches_its_end(data: bytes) -> bool:
    position, num_scans = 2, 0
    while match := _JPEG_MARKER.search(data, position):
        marker = data[match.start() + 1]
        if marker == 0xD9:
            return True
        num_scans += marker == 0xDA
        if num_scans > MAX_JPEG_SCANS:
            raise HeaderError(f"more than {MAX_JPEG_SCANS} scans; save it again with fewer")
        position = match.end()
        if marker not in _JPEG_WITHOUT_LENGTH:
            position += struct.unpack_from(">H", data, position)[0]
    return False


def _png_chunks(stream: BinaryIO) -> list[tuple[bytes, int, int]]:
    """Kind, offset of the content and length of every whole chunk."""
    end = stream.seek(0, io.SEEK_END)
    position, chunks = len(_PNG_SIGNATURE), []
    while position + 12 <= end:
        stream.seek(position)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if position + 12 + length > end:
            break
        chunks.append((kind, position + 8, length))
        if kind == b"IEND":
            break
        position += 12 + length
    return chunks


def _parse_png(stream: BinaryIO) -> ImageHeader:
    # A damaged chunk list must not hide the size, which the cap on pixels needs: IHDR always comes first.
    stream.seek(12)
    if stream.read(4) != b"IHDR":
        raise HeaderError("the header does not begin with IHDR")
    width, height, bits, *_, interlacing = _unpack(stream, ">IIBBBBB")
    orientation = 1
    for kind, offset, length in _png_chunks(stream):
        if kind == b"eXIf" and length <= _MAX_EXIF_BYTES:
            stream.seek(offset)
            orientation = _exif_orientation(stream.read(length))
    return ImageHeader("PNG", height, width, max(bits, 8), orientation, interlacing == 0)


def _parse_bmp(stream: BinaryIO) -> ImageHeader:
    stream.seek(14)
    (header_size,) = _unpack(stream, "<I")
    if header_size == 12:
        width, height = _unpack(stream, "<HH")
    else:
        width, height = _unpack(stream, "<ii")
    return ImageHeader("BMP", abs(height), width)


def _parse_webp(stream: BinaryIO) -> ImageHeader:
    stream.seek(12)
    kind = stream.read(4)
    (length,) = _unpack(stream, "<I")
    body = stream.read(10)
    if len(body) < 10:
        raise HeaderError("the header is cut off")
    if kind == b"VP8X":
        width = 1 + int.from_bytes(body[4:7], "little")
        height = 1 + int.from_bytes(body[7:10], "little")
        orientation = _webp_orientation(stream, 20 + length + length % 2) if body[0] & 0x08 else 1
        return ImageHeader("WebP", height, width, orientation=orientation)
    if kind == b"VP8L" and body[0] == 0x2F:
        (packed,) = struct.unpack_from("<I", body, 1)
        return ImageHeader("WebP", 1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF))
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return ImageHeader("WebP", height & 0x3FFF, width & 0x3FFF)
    raise HeaderError("the first chunk is none that WebP knows")


def _webp_orientation(stream: BinaryIO, position: int) -> int:
    while True:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return 1
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return _exif_orientation(stream.read(min(length, _MAX_EXIF_BYTES)))
        position += 8 + length + length % 2


def _parse_tiff(stream: BinaryIO) -> ImageHeader:
    tags = _tiff_tags(
        stream, (_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT), each_once=True
    )
    if len(tags.get(_WIDTH, ())) != 1 or len(tags.get(_HEIGHT, ())) != 1:
        raise HeaderError("the first directory does not give the size")
    if tags.get(_SAMPLES, (1,))[0] > _MAX_TIFF_SAMPLES:
        raise HeaderError(f"{tags[_SAMPLES][0]} values per pixel, allowed are {_MAX_TIFF_SAMPLES}")
    tile = tags.get(_TILE_WIDTH, (1,))[0] * tags.get(_TILE_HEIGHT, (1,))[0]
    if tile > max(_MAX_TILE_PIXELS, 2 * tags[_WIDTH][0] * tags[_HEIGHT][0]):
        raise HeaderError(f"tiles of {tile:,} pixels, which are much larger than the image")
    bits = max(tags.get(_BITS, (1,)))
    orientation = tags.get(_ORIENTATION, (1,))[0]
    orientation = orientation if 1 <= orientation <= 8 else 1
    # Whether a fourth channel is an alpha channel, decoders do not agree about.
    plain = tags.get(_SAMPLES, (1,))[0] in (1, 3)
    return ImageHeader("TIFF", tags[_HEIGHT][0], tags[_WIDTH][0], max(bits, 8), orientation, plain)


def _exif_orientation(block: bytes) -> int:
    """The orientation of an Exif block; 1 where it is absent or unreadable, as every viewer does."""
    block = block.removeprefix(b"Exif\0\0")
    if not block.startswith((b"II*\0", b"MM\0*")):
        return 1
    try:
        orientation = _tiff_tags(io.BytesIO(block), (_ORIENTATION,)).get(_ORIENTATION, (1,))[0]
    except (struct.error, HeaderError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(stream: BinaryIO, wanted: tuple[int, ...], each_once: bool = False) -> dict[int, tuple[int, ...]]:
    """The values of the ``wanted`` unsigned integer tags in the first directory.

    With ``each_once``, a tag that is there twice is an error, as some readers take the first and some the last.
    """
    stream.seek(0)
    order = "<" if stream.read(2) == b"II" else ">"
    is_big = _unpack(stream, order + "H") == (_BIG_TIFF,)
    # The type of an offset and of the number of values, and of the number of entries.
    wide, count_of = ("Q", "Q") if is_big else ("I", "H")
    formats = _TIFF_VALUE_FORMATS | ({_LONG8: "Q"} if is_big else {})
    stream.seek(8 if is_big else 4)
    _seek(stream, _unpack(stream, order + wide)[0])
    (count,) = _unpack(stream, order + count_of)
    if count > _MAX_TIFF_ENTRIES:
        raise HeaderError(f"a directory of {count} entries")
    layout_of_entry, room = f"{order}HH{wide}", struct.calcsize(f"={wide}")
    begin_of_value = struct.calcsize(layout_of_entry)
    num_bytes = begin_of_value + room
    entries = stream.read(num_bytes * count)
    tags: dict[int, tuple[int, ...]] = {}
    seen: set[int] = set()
    for start in range(0, num_bytes * count, num_bytes):
        tag, kind, num_values = struct.unpack_from(layout_of_entry, entries, start)
        if each_once and tag in seen:
            raise HeaderError(f"the first directory has tag {tag} twice, so that readers disagree about it")
        seen.add(tag)
        if tag not in wanted or kind not in formats or not 1 <= num_values <= 16:
            continue
        layout = f"{order}{num_values}{formats[kind]}"
        size = struct.calcsize(layout)
        if size <= room:
            content = entries[start + begin_of_value : start + begin_of_value + size]
        else:
            _seek(stream, struct.unpack_from(order + wide, entries, start + begin_of_value)[0])
            content = stream.read(size)
        tags[tag] = struct.unpack(layout, content)
    return tags


def _seek(stream: BinaryIO, offset: int) -> None:
    """Go to ``offset``, which may be one of 64 bits, further than files reach."""
    if offset > _FURTHEST:
        raise HeaderError("the header is cut off")
    stream.seek(offset)
