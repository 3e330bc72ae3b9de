"""Reading and writing still images, always as RGB, always upright."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray
from detseg.files import atomic_path, open_regular
from detseg.runtime.media.decode_budget import MAX_PIXELS_AT_A_TIME, decoding
from detseg.runtime.media.image_header import HeaderError, ImageHeader, foreign_format, is_complete, read_header

WRITABLE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*WRITABLE_SUFFIXES, ".jfif", ".jpe")
"""What the names of images end in; the last two are other words for JPEG."""

MAX_PIXELS = MAX_PIXELS_AT_A_TIME
"""Images with more pixels are refused before decoding."""

_WRITE_OPTIONS: dict[str, list[int]] = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
}

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
"""The fractions of its size at which the decoder of JPEG can work."""

UPRIGHT: dict[int, Callable[[ByteArray], ByteArray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}
"""What undoes each EXIF orientation (Exif 2.3, tag 0x0112)."""


class ImageError(ValueError):
    """A file that cannot be used as an image; the message begins with its path."""


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> ByteArray:
    """Decode a JPEG, PNG, BMP, WebP or TIFF file into ``[H, W, 3]`` uint8 RGB.

    The format is taken from the content, not from the name. The EXIF orientation is always applied. Gray images get
    three equal channels and palettes are resolved; of several pages or frames the first counts. An alpha channel is
    dropped, except in TIFF, where transparent means black.

    Raises:
        ImageError: the file is missing, of another format, larger than ``max_pixels`` (known before decoding), deeper
            than 8 bits per channel, truncated or damaged.
    """
    return _decode_whole(*_open_checked(path, max_pixels), path, 1)


def read_reduced(path: Path | str, enough: tuple[int, int]) -> tuple[ByteArray, int]:
    """:func:`read_image`, where an image that fits into ``enough`` (height, width) would do: a JPEG is decoded at a
    half, a quarter or an eighth of its size, as small as is still no smaller than that.

    Returns:
        The image, and the factor by which it is reduced; it divides both sides, so that every pixel is one block.

    Raises:
        ImageError: as :func:`read_image`.
    """
    data, header = _open_checked(path, MAX_PIXELS)
    factor = _reduction(header, enough)
    return _decode_whole(data, header, path, factor), factor


def decode_image(data: bytes, name: Path | str, max_pixels: int = MAX_PIXELS, reduction: int = 1) -> ByteArray:
    """:func:`read_image` for the bytes of a file; ``name`` stands in the error messages. A JPEG whose sides
    ``reduction`` (1, 2, 4 or 8) divides is decoded at that part of its size."""
    return _decode_whole(data, checked_header(io.BytesIO(data), name, max_pixels), name, reduction)


def _decode_whole(data: bytes, header: ImageHeader, name: Path | str, reduction: int) -> ByteArray:
    """The pixels of an image with this ``header``, unless something is missing."""
    if header.bits > 8:
        raise ImageError(
            f"{name}: {header.bits} bits per channel, allowed are 8; convert it with the value range you want"
        )
    require_complete(data, header, name)
    with decoding(header.height * header.width):
        return _decode(data, header, name, reduction)


def require_complete(data: bytes, header: ImageHeader, name: Path | str) -> None:
    """Raise ImageError where the image ``data`` does not reach its end, or would take very long to decode."""
    try:
        complete = is_complete(data, header.format)
    except HeaderError as error:
        raise ImageError(f"{name}: {header.format} with {error}") from error
    if not complete:
        raise ImageError(f"{name}: truncated, the {header.format} does not reach its end in {len(data)} bytes")


def _reduction(header: ImageHeader, enough: tuple[int, int]) -> int:
    """By how much the image may be reduced while it is decoded."""
    height, width = header.upright_size
    ratio = min(enough[0] / height, enough[1] / width)
    fitting = [one for one in _REDUCED if one * ratio <= 1 and height % one == width % one == 0]
    return max(fitting, default=1) if header.format == "JPEG" else 1


def _decode(data: bytes, header: ImageHeader, name: Path | str, reduction: int) -> ByteArray:
    flags = cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED.get(reduction, cv2.IMREAD_COLOR)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:  # no memory, or a claim that OpenCV asserts to be false
        raise ImageError(f"{name}: the {header.format} cannot be decoded: {' '.join(str(error).split())}") from error
    if bgr is None:
        raise ImageError(f"{name}: damaged or truncated, the {header.format} cannot be decoded")
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    # The decoder of TIFF turns the image itself, flag or not; the others leave it as stored.
    if header.format != "TIFF":
        rgb = UPRIGHT[header.orientation](rgb)
    if tuple(side * reduction for side in rgb.shape[:2]) != header.upright_size:
        raise ImageError(f"{name}: damaged, the header says {header.upright_size}, the pixels are {rgb.shape[:2]}")
    return np.ascontiguousarray(rgb)


def image_size(path: Path | str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """``(height, width)`` that :func:`read_image` would return, read from the header alone.

    Raises:
        ImageError: as :func:`read_image`, but damage behind the header goes unnoticed.
    """
    try:
        with open_regular(path) as stream:
            return checked_header(stream, path, max_pixels).upright_size
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def encoded_size(data: bytes, name: Path | str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """:func:`image_size` for the bytes of a file; ``name`` stands in the error messages."""
    return checked_header(io.BytesIO(data), name, max_pixels).upright_size


def write_image(path: Path | str, image: ByteArray) -> None:
    """Write ``image`` ``[H, W, 3]`` uint8 RGB in the format that the suffix names; the folder is created.

    Atomic: whoever reads ``path`` sees the old file or the new one, never a part.

    Raises:
        ImageError: for a suffix that is no supported format.
        ValueError: if ``image`` is not ``[H, W, 3]`` uint8.
        SaveError: the file cannot be written.
    """
    encoded = encode_image(image, path)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(encoded)


def encode_image(image: ByteArray, path: Path | str) -> bytes:
    """What :func:`write_image` would write to ``path``; its errors but the last."""
    path = Path(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be HxWx3 uint8 and not empty, got {image.shape} {image.dtype}")
    suffix = path.suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        raise ImageError(
            f"{path}: cannot write {suffix or 'a name without suffix'}; use one of {', '.join(WRITABLE_SUFFIXES)}"
        )
    try:
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _WRITE_OPTIONS.get(suffix, []))
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels cannot be encoded as {suffix}")
    return encoded.tobytes()


def write_mask(path: Path | str, mask: ByteArray, colors: ByteArray | None = None) -> None:
    """Write ``mask`` ``[H, W]`` uint8 as a PNG of 8 bits, lossless and whole or not at all; the folder is created. It
    is gray, or with ``colors`` ``[256, 3]`` uint8 RGB, one for each value, indexed: viewers show these, and who reads
    the numbers gets ``mask``.

    Raises:
        ImageError: ``path`` does not end in .png.
        ValueError: if ``mask`` is not ``[H, W]`` uint8.
        SaveError: the file cannot be written.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise ValueError(f"mask must be HxW uint8 and not empty, got {mask.shape} {mask.dtype}")
    _write_png(Path(path), mask, colors)


def write_numbers(path: Path | str, numbers: NDArray[np.uint16]) -> None:
    """Write ``numbers`` ``[H, W]`` uint16 as a gray PNG of 16 bits; raises like :func:`write_mask`."""
    if numbers.ndim != 2 or numbers.dtype != np.uint16 or numbers.size == 0:
        raise ValueError(f"numbers must be HxW uint16 and not empty, got {numbers.shape} {numbers.dtype}")
    _write_png(Path(path), numbers)


def _write_png(path: Path, mask: NDArray[Any], colors: ByteArray | None = None) -> None:
    if path.suffix.lower() != ".png":
        raise ImageError(f"{path}: a mask is written as .png, which changes no value; got {path.suffix or 'no suffix'}")
    if colors is None:
        done, encoded = cv2.imencode(".png", mask)
        if not done:
            raise ImageError(f"{path}: {mask.shape[1]}x{mask.shape[0]} pixels cannot be encoded as .png")
        data = encoded.tobytes()
    else:
        data = _indexed_png(mask, colors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _indexed_png(mask: ByteArray, colors: ByteArray) -> bytes:
    """A PNG of color type 3 (ISO/IEC 15948, section 11.2), which OpenCV cannot write."""
    height, width = mask.shape
    header = struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)
    # Each row begins with the number of its filter: none.
    rows = np.pad(mask, ((0, 0), (1, 0))).tobytes()
    chunks = ((b"IHDR", header), (b"PLTE", colors.tobytes()), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _open_checked(path: Path | str, max_pixels: int) -> tuple[bytes, ImageHeader]:
    """What is in a file, and its header. Raises ImageError."""
    try:
        with open_regular(path) as stream:
            # Before the rest is read: an archive of many gigabytes named .jpg is refused by its first bytes.
            header = checked_header(stream, path, max_pixels)
            stream.seek(0)
            return stream.read(), header
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def checked_header(stream: BinaryIO, name: Path | str, max_pixels: int) -> ImageHeader:
    """The header of the image in ``stream``; ``name`` stands in the errors.

    Raises:
        ImageError: it is no image of a supported format, damaged, or larger than ``max_pixels``.
    """
    try:
        header = read_header(stream)
    except HeaderError as error:
        raise ImageError(f"{name}: damaged or truncated, {error}") from error
    if header is None:
        stream.seek(0)
        known = foreign_format(stream.read(16))
        raise ImageError(
            f"{name}: not an image of a supported format (JPEG, PNG, BMP, WebP or TIFF, by its content)"
            + (f"; it is {known}" if known else "")
        )
    if header.height * header.width > max_pixels:
        size = f"{header.width}x{header.height} = {header.height * header.width:,}"
        way_out = " (`predict --tiles` takes larger ones)" if max_pixels == MAX_PIXELS else ""
        raise ImageError(
            f"{name}: {size} pixels, allowed are {max_pixels:,}; cut it into tiles or make it smaller{way_out}"
        )
    return header
