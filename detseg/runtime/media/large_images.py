"""Images that are never in memory as a whole: decoded in strips, from the top to the bottom, into a file of plain
pixels that is mapped into memory.

What decodes is libvips, by the package pyvips, the extra ``large``; other decoders in Python make an image as a whole.
The file of pixels lies where temporary files do (``$TMPDIR``), takes three bytes for each, and is gone with the array.
"""

from __future__ import annotations

import importlib
import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import ByteArray
from detseg.files import open_regular
from detseg.runtime.media.image_header import ImageHeader
from detseg.runtime.media.images import MAX_PIXELS, UPRIGHT, ImageError, checked_header, read_image

MIN_STORED_PIXELS = 2**25
"""Images with fewer pixels are decoded as a whole, in a tenth of a gigabyte."""
MAX_STORED_PIXELS = 2**31
"""Images with more pixels are refused before decoding: their file would take 6.4 GB."""

_NOT_IN_ORDER = {
    "JPEG": "no baseline JPEG, perhaps a progressive one",
    "PNG": "an interlaced PNG",
    "TIFF": "a TIFF with other channels than gray or RGB",
}
_COLORS = ("srgb", "rgb", "b-w")
"""What libvips calls colors that are the values in the file, or gray."""


def read_large(path: Path | str) -> ByteArray:
    """What :func:`detseg.runtime.media.images.read_image` gives, ``[H, W, 3]`` uint8 RGB, for images of up to
    ``MAX_STORED_PIXELS``; of large ones, where pyvips is installed, an array that cannot be written to and whose pixels
    lie in a file. :func:`let_go` takes those out of memory that were looked at.

    JPEG (baseline), PNG (not interlaced) and TIFF, BigTIFF too, are decoded in strips. A pixel of a JPEG may differ by
    a level or two from what other decoders make of it.

    Raises:
        ImageError: as ``read_image``; the image is too large to be decoded as a whole, and cannot be decoded in strips,
            or there is no room for its file.
    """
    try:
        with open_regular(path) as stream:
            header = checked_header(stream, path, MAX_STORED_PIXELS)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    num_pixels = header.height * header.width
    if num_pixels < MIN_STORED_PIXELS:
        return read_image(path)
    why = _why_not(header)
    if not why:
        return _stored(Path(path), header)
    if num_pixels <= MAX_PIXELS:
        return read_image(path)
    size = f"{header.width}x{header.height} = {num_pixels:,} pixels"
    raise ImageError(
        f"{path}: {size}, as a whole at most {MAX_PIXELS:,} are decoded, and in strips it cannot be: {why}"
    )


def let_go(image: ByteArray) -> None:
    """Take the pixels of a stored image out of memory, to be read again from its file; does nothing to others."""
    owner: Any = image
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def _why_not(header: ImageHeader) -> str:
    """Why an image cannot be decoded in strips; nothing if it can be."""
    if header.format not in ("JPEG", "PNG", "TIFF"):
        return f"{header.format} is none of JPEG, PNG and TIFF; convert it"
    if not header.in_order:
        return f"it is {_NOT_IN_ORDER[header.format]}; save it as another"
    try:
        importlib.import_module("pyvips")
    except ImportError:
        return "that takes the package pyvips: pip install 'detseg[large]'"
    return ""


def _stored(path: Path, header: ImageHeader) -> ByteArray:
    """The image in ``path``, decoded into a file."""
    num_bytes = 3 * header.height * header.width
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ImageError(
            f"{path}: its pixels take {num_bytes:,} bytes in {folder}, where {free:,} are free; set TMPDIR to a folder "
            "with more room"
        )
    handle, name = tempfile.mkstemp(prefix="detseg-", suffix=".pixels")
    try:
        os.close(handle)
        _decode(path, header, name)
        if os.stat(name).st_size != num_bytes:  # noqa: PTH116
            raise ImageError(f"{path}: damaged or truncated, the {header.format} cannot be decoded")
        with open(name, "rb") as stream:  # noqa: PTH123
            mapped = mmap.mmap(stream.fileno(), num_bytes, access=mmap.ACCESS_READ)
    finally:
        _remove(name)
    if os.path.exists(name):  # noqa: PTH110 - where a file that is open stays
        weakref.finalize(mapped, _remove, name)
    pixels: ByteArray = np.frombuffer(mapped, np.uint8).reshape(header.height, header.width, 3)
    return UPRIGHT[header.orientation](pixels)


def _remove(name: str) -> None:
    try:
        os.remove(name)  # noqa: PTH107
    except OSError:
        return


def _decode(path: Path, header: ImageHeader, name: str) -> None:
    """Write the pixels of ``path`` as they are stored, three bytes each, to the file ``name``, strip after strip."""
    pyvips: Any = importlib.import_module("pyvips")
    # A file may change while its name stays.
    pyvips.cache_set_max(0)
    load = getattr(pyvips.Image, f"{header.format.lower()}load")
    try:
        image = load(str(path), access="sequential", fail_on="error")
        _as_rgb(image, header, path).rawsave(name)
    except pyvips.Error as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ImageError(f"{path}: the {header.format} cannot be decoded: {' '.join(lines)}") from error


def _as_rgb(image: Any, header: ImageHeader, path: Path) -> Any:
    """``image`` of libvips with three channels of 8 bits."""
    if (image.height, image.width) != (header.height, header.width):
        size = (header.height, header.width)
        raise ImageError(f"{path}: damaged, the header says {size}, the pixels are {(image.height, image.width)}")
    if image.format != "uchar" or image.interpretation not in _COLORS:
        raise ImageError(
            f"{path}: {image.interpretation} in {image.format} cannot be decoded in strips; save it as RGB of 8 bits"
        )
    if image.hasalpha():
        image = image.extract_band(0, n=image.bands - 1)
    return image.bandjoin([image, image]) if image.bands == 1 else image
