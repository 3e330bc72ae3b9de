"""Reading mask files: images whose pixels are numbers of classes, colors of classes, or numbers of objects.

Values come as they are stored: a palette gives its indices, not its colors, and no EXIF orientation is applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from detseg.arrays import ByteArray
from detseg.data.source import DatasetError
from detseg.files import open_regular, read_bytes
from detseg.runtime.media.decode_budget import decoding
from detseg.runtime.media.image_header import read_header
from detseg.runtime.media.images import ImageError, image_size, require_complete

MASK_SUFFIXES = (".bmp", ".png", ".tif", ".tiff")

_FORMATS = ("PNG", "BMP", "TIFF")
_INDEX_MODES = ("1", "L", "P")
_COLOR_MODES = ("RGB", "P")
_INSTANCE_MODES = ("L", "I;16", "I;16B", "I;16L", "I;16N", "I")
_KINDS = {
    "1": "one channel of 1 bit",
    "L": "one channel of 8 bits",
    "P": "one channel of 8 bits with a palette",
    "I": "one channel of 32 bits",
    "F": "one channel of floating point numbers",
    "RGB": "3 channels (RGB)",
}
# Pillow spreads gray of 2 or 4 bits over 0 to 255.
_SPREAD = {"L;2": 85, "L;4": 17}


def read_index_mask(path: Path | str, image: Path | str) -> ByteArray:
    """The mask of ``image`` with one number per pixel, ``[H, W]`` uint8, from a PNG, BMP or TIFF file.

    Allowed are gray values and palettes of up to 8 bits, and what holds no more than that: 16 bits with values up to
    255, three equal channels, an alpha channel that hides nothing.

    Raises:
        ImageError: the file is missing, damaged, or larger than ``MAX_PIXELS``, which is known before decoding.
        DatasetError: it has several channels, more than 8 bits, or a format that changes values (JPEG, WebP).
    """
    mode, pixels = _without_alpha(*_read(path, image))
    if mode == "RGB" and (pixels == pixels[..., :1]).all():
        mode, pixels = "L", pixels[..., 0]
    elif (mode == "I" or mode.startswith("I;16")) and pixels.min() >= 0 and pixels.max() <= 255:
        mode = "L"
    if mode not in _INDEX_MODES:
        advice = "; if it is a color map, list the colors under `colors:`" if mode == "RGB" else ""
        if pixels.ndim == 2:
            advice = "; convert it without scaling the values"
        raise DatasetError(f"{path}: has {_describe(mode)}; an index mask has one channel of up to 8 bits{advice}")
    return np.ascontiguousarray(pixels, np.uint8)


def read_color_mask(path: Path | str, image: Path | str) -> ByteArray:
    """The mask of ``image`` with a color per pixel, ``[H, W, 3]`` uint8 RGB; a palette gives its colors. An alpha
    channel that hides nothing is passed over.

    Raises:
        ImageError: as :func:`read_index_mask`.
        DatasetError: it has no 3 channels of 8 bits, or a format that changes values.
    """
    mode, pixels = _without_alpha(*_read(path, image, resolve_palette=True))
    if mode not in _COLOR_MODES:
        advice = "; without `colors:`, masks are read as numbers of classes" if pixels.ndim == 2 else ""
        raise DatasetError(f"{path}: has {_describe(mode)}; a color map has 3 channels of 8 bits (RGB){advice}")
    return np.ascontiguousarray(pixels, np.uint8)


def read_instance_mask(path: Path | str, image: Path | str) -> NDArray[np.int32]:
    """The mask of ``image`` with the number of an object per pixel, ``[H, W]`` int32, of 8, 16 or 32 bits.

    Raises:
        ImageError: as :func:`read_index_mask`.
        DatasetError: it is no mask of one channel with integers, or has a format that changes values.
    """
    mode, pixels = _read(path, image)
    if mode not in _INSTANCE_MODES:
        raise DatasetError(f"{path}: has {_describe(mode)}; a mask of instances has one channel of integers")
    return np.ascontiguousarray(pixels, np.int32)


def describe_missing(path: Path | str, image: Path | str) -> str:
    """What to say where there is no mask at ``path``."""
    path = Path(path)
    # Not by a pattern: names may hold its letters.
    near = sorted(one.name for one in path.parent.iterdir() if one.stem == path.stem) if path.parent.is_dir() else []
    message = f"there is no such file; the mask of {image} was expected there"
    if not near:
        return message
    formats = ", ".join(MASK_SUFFIXES)
    return f"{message}; {near[0]} is no mask: JPEG and the like change values, save masks as one of {formats}"


def mask_size(path: Path | str) -> tuple[int, int]:
    """``(height, width)`` of a mask as stored, read from the header alone. Raises ImageError as ``read_index_mask``."""
    height, width = image_size(path)
    with open_regular(path) as stream:
        header = read_header(stream)
    assert header is not None, "image_size has read it"
    return (height, width) if header.orientation < 5 else (width, height)


def _read(path: Path | str, image: Path | str, resolve_palette: bool = False) -> tuple[str, NDArray[np.generic]]:
    """Pillow's mode of the file, with its depth where that is lost in decoding, and the pixels."""
    if not Path(path).is_file():
        raise ImageError(f"{path}: {describe_missing(path, image)}")
    image_size(path)
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    header = read_header(io.BytesIO(data))
    if header is None or header.format not in _FORMATS:
        kind = header.format if header else "unknown"
        raise DatasetError(f"{path}: is {kind}, which may change values; a mask is {', '.join(_FORMATS)}: save it so")
    require_complete(data, header, path)
    try:
        with decoding(header.height * header.width), Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            mode = opened.mode
            spread = _SPREAD.get(_raw_mode(opened), 1)
            pixels = np.asarray(opened.convert("RGB") if resolve_palette and mode == "P" else opened)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ImageError(f"{path}: damaged or truncated, the {header.format} cannot be decoded: {error}") from error
    if header.bits == 16 and mode in ("RGB", "RGBA", "LA"):
        mode = f"{mode} of 16 bits"
    return mode, pixels // spread if spread > 1 else pixels


def _without_alpha(mode: str, pixels: NDArray[np.generic]) -> tuple[str, NDArray[np.generic]]:
    """The mode and the pixels without an alpha channel that is opaque everywhere."""
    if mode in ("RGBA", "LA") and (pixels[..., -1] == 255).all():
        return mode[:-1], pixels[..., :-1] if mode == "RGBA" else pixels[..., 0]
    return mode, pixels


def _raw_mode(opened: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words; only known before they are decoded."""
    arguments = opened.tile[0].args if isinstance(opened, ImageFile) and opened.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _describe(mode: str) -> str:
    if mode.startswith("I;16"):
        return "one channel of 16 bits"
    return _KINDS.get(mode) or f"the channels {mode}{', with transparency' if 'A' in mode else ''}"
