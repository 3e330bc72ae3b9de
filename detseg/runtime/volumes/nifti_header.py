"""The header of a NIfTI file (https://nifti.nimh.nih.gov): every claim checked before memory is taken for it."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from detseg.arrays import DoubleArray
from detseg.files import open_regular
from detseg.runtime.media.images import ImageError
from detseg.runtime.volumes.nifti_forms import affine_of, doubts_about, forms_of
from detseg.volumes import Shape3, Spacing, StoredForms, spacing_of

_HEADER_SIZES = {348: "NIfTI-1", 540: "NIfTI-2"}
_PAIR_MAGIC = (b"ni1", b"ni2")
PAIR_SUFFIXES = (".hdr.gz", ".hdr")
"""How the names of files end that hold a header alone; voxels are in a file that ends in .img or .img.gz."""
_IMAGE_SUFFIXES = (".img", ".img.gz", ".IMG")
MAX_VOXELS = 2**30
"""Volumes with more voxels are refused before they are read; as float32 these take 4 GiB."""
LARGEST_DEFLATE_RATIO = 1032
"""No deflate stream expands to more than so many times its size (zlib's technical details)."""
_CHUNK_BYTES = 2**22
_KNOWN_BEGINNINGS = {
    b"": "; it is empty",
    b"\x1f\x8b": "; it is compressed twice: decompress it once",
    b"<!": "; it is a page for browsers, as a download without permission gives: download it anew",
    b"<h": "; it is a page for browsers, as a download without permission gives: download it anew",
    b"ve": "; it may be the pointer that Git LFS keeps in place of a file: fetch it with git lfs pull",
}
"""What files are, by two bytes, that have the name of a volume but are none."""


class VolumeError(ImageError):
    """A file that cannot be used as a volume; the message begins with its path."""


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a file says of its voxels: their number along X, Y, Z, the ``affine`` ``[4, 4]`` float64 to millimeters, and
    the type in which they are stored. ``doubts``: what it says twice, and differently, or not at all. ``forms``: how it
    says it. ``num_channels``: values of each voxel."""

    shape: Shape3
    affine: DoubleArray
    dtype: str
    doubts: tuple[str, ...] = ()
    forms: StoredForms | None = None
    num_channels: int = 1

    @property
    def spacing(self) -> Spacing:
        """Millimeters between voxels along X, Y, Z."""
        return spacing_of(self.affine)


@dataclass(frozen=True, slots=True)
class Layout:
    """A header with what is needed to find and to scale the voxels behind it."""

    header: VolumeHeader
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    image: Path | None = None
    """Where the voxels are, if not behind the header."""

    @property
    def is_scaled(self) -> bool:
        """Whether what is stored becomes other values."""
        return self.slope != 1.0 or self.intercept != 0.0

    @property
    def num_bytes(self) -> int:
        """What the voxels take."""
        return math.prod(self.header.shape) * self.header.num_channels * self.dtype.itemsize


def require_nibabel() -> Any:
    """The package nibabel. Raises ValueError: it is not installed."""
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ValueError("volumes need the extra `medical`: pip install 'detseg[medical]'") from error
    return nibabel


def open_nifti(path: Path | str) -> BinaryIO | gzip.GzipFile:
    """The file's bytes, uncompressed where its content begins as gzip does. Raises VolumeError: it cannot be read."""
    try:
        with open_regular(path) as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if is_compressed else open_regular(path)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror}") from error


def read_bytes(stream: BinaryIO | gzip.GzipFile, count: int, path: Path | str) -> bytearray:
    """Up to ``count`` bytes; memory grows with what is really there. Raises VolumeError: the stream is damaged."""
    data = bytearray()
    try:
        while len(data) < count and (chunk := stream.read(min(_CHUNK_BYTES, count - len(data)))):
            data += chunk
    except MemoryError as error:
        raise VolumeError(f"{path}: not enough memory for more than the first {len(data)} bytes") from error
    except (EOFError, zlib.error, OSError) as error:
        raise VolumeError(f"{path}: damaged or truncated after {len(data)} bytes: {error}") from error
    return data


def read_layout(stream: BinaryIO | gzip.GzipFile, path: Path | str, num_channels: int = 1) -> Layout:
    """The header at the beginning of ``stream``, which comes from ``path``. Raises VolumeError: it is of no use, or has
    not ``num_channels``."""
    start = bytes(read_bytes(stream, 4, path))
    little, big = int.from_bytes(start, "little"), int.from_bytes(start, "big")
    size, endianness = (little, "<") if little in _HEADER_SIZES else (big, ">")
    if size not in _HEADER_SIZES:
        raise VolumeError(
            f"{path}: no NIfTI file: it begins with {start!r} instead of the size of a NIfTI header"
            + (_KNOWN_BEGINNINGS.get(start[:2]) or _advice_on(path))
        )
    raw = start + bytes(read_bytes(stream, size - 4, path))
    if len(raw) < size:
        raise VolumeError(
            f"{path}: truncated: the {_HEADER_SIZES[size]} header takes {size} bytes, there are {len(raw)}"
        )
    nibabel = require_nibabel()
    header = (nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header)(raw, endianness, check=False)
    magic = bytes(header["magic"])[:3]
    image = None
    if magic in _PAIR_MAGIC:
        image = _require_image(path)
    elif magic not in (b"n+1", b"n+2"):
        is_analyze = not magic.strip(b"\0")
        advice = "; it is Analyze 7.5, which does not say left from right: convert it to NIfTI" if is_analyze else ""
        raise VolumeError(f"{path}: no NIfTI file: its magic word is {magic!r}{advice}")
    shape, dtype = _shape_of(header, path, num_channels), _dtype_of(header, path)
    try:
        affine = affine_of(header)
    except ValueError as error:
        raise VolumeError(f"{path}: {error}") from error
    slope, intercept = _scale_of(header, path)
    volume_header = VolumeHeader(shape, affine, dtype.name, doubts_about(header, shape), forms_of(header), num_channels)
    offset = _offset_of(header, size if image is None else 0, path)
    layout = Layout(volume_header, dtype, offset, slope, intercept, image)
    if image is None:
        _require_room(layout, stream, path)
    else:
        with open_nifti(image) as voxels:
            _require_room(layout, voxels, image)
    return layout


def _advice_on(path: Path | str) -> str:
    """What to do about a file without a header, where it is one of a pair."""
    path = Path(path)
    for suffix in _IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            headers = [path.with_name(path.name[: -len(suffix)] + one) for one in PAIR_SUFFIXES]
            beside = next((one for one in headers if one.exists()), headers[-1])
            return f"; voxels of a pair are in such a file: name its header, {beside.name}"
    image = image_of_pair(path)
    if image is not None and image.exists():
        try:
            with open_nifti(image) as stream:
                start = stream.read(4)
        except (VolumeError, OSError, EOFError, zlib.error):
            return ""
        if {int.from_bytes(start, "little"), int.from_bytes(start, "big")} & set(_HEADER_SIZES):
            return f"; but {image.name} does: the two files have each other's name, swap them"
    return ""


def image_of_pair(path: Path | str) -> Path | None:
    """The file with the voxels of the header ``path`` by its name, where it has the name of one."""
    name = Path(path).name
    suffix = next((one for one in PAIR_SUFFIXES if name.lower().endswith(one)), None)
    if suffix is None:
        return None
    beside = [Path(path).with_name(name[: -len(suffix)] + one) for one in _IMAGE_SUFFIXES]
    return next((one for one in beside if one.exists()), beside[0])


def _require_image(path: Path | str) -> Path:
    image = image_of_pair(path)
    if image is None:
        raise VolumeError(f"{path}: the voxels are in another file (.img); name the header with the suffix .hdr")
    if not image.exists():
        raise VolumeError(f"{path}: the voxels are in another file, and {image.name} is not there")
    return image


def _shape_of(header: Any, path: Path | str, num_channels: int) -> Shape3:
    dims = [int(length) for length in header["dim"]]
    num_dims = dims[0]
    if not 1 <= num_dims <= 7 or min(dims[1 : num_dims + 1]) < 1:
        raise VolumeError(f"{path}: the header gives no possible shape: {num_dims} dimensions, {dims[1:]}")
    shape = dims[1 : num_dims + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if num_channels > 1:
        # Channels are the fourth dimension, as in the Decathlon, or the fifth, as the standard has it for vectors.
        found = shape.pop() if len(shape) == 4 or (len(shape) == 5 and shape.pop(3) == 1) else 1
        if len(shape) != 3 or found != num_channels:
            raise VolumeError(
                f"{path}: {_by(dims[1 : num_dims + 1])} values, expected {num_channels} channels, as a fourth "
                "dimension or in files of their own, CASE_0000, CASE_0001, ..."
            )
    if len(shape) != 3:
        what = "x".join(map(str, shape))
        advice = "split it into one file for each channel or time" if len(shape) > 3 else "a volume has 3"
        raise VolumeError(f"{path}: {len(shape)} dimensions ({what}), expected 3; {advice}")
    require_few_voxels((shape[0], shape[1], shape[2]), num_channels, path)
    return shape[0], shape[1], shape[2]


def require_few_voxels(shape: Shape3, num_channels: int, path: Path | str) -> None:
    """Raise VolumeError where ``path`` claims to have more than ``MAX_VOXELS``."""
    if math.prod(shape) * num_channels > MAX_VOXELS:
        raise VolumeError(
            f"{path}: {'x'.join(map(str, shape))} = {math.prod(shape):,} voxels, allowed are {MAX_VOXELS:,}; cut it "
            "into parts or resample it, if its header does not lie"
        )


def _by(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))


def _dtype_of(header: Any, path: Path | str) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except KeyError as error:  # of nibabel's table of types
        raise VolumeError(f"{path}: unknown type of voxels, code {code}") from error
    if dtype.names:
        raise VolumeError(
            f"{path}: voxels are colors ({'+'.join(dtype.names)}), expected one number each: save the scan "
            "itself, or one file for each color"
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise VolumeError(f"{path}: voxels are {dtype}, expected whole or real numbers of up to 64 bits")
    return dtype


def _offset_of(header: Any, size: int, path: Path | str) -> int:
    offset = float(header["vox_offset"])
    if not (offset >= size and offset.is_integer()):
        raise VolumeError(f"{path}: the voxels cannot begin at byte {offset:g}, as the header takes {size}")
    return int(offset)


def _scale_of(header: Any, path: Path | str) -> tuple[float, float]:
    """Slope and intercept. A slope of 0, or one that is no number, means that nothing is to be scaled or shifted."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise VolumeError(f"{path}: the intercept in the header is {intercept:g}, which makes no voxel a number")
    return slope, intercept


def _require_room(layout: Layout, stream: BinaryIO | gzip.GzipFile, path: Path | str) -> None:
    """Refuse a claim that the file is too short to fulfil; a compressed file has to be read to know exactly."""
    size = os.fstat(stream.fileno()).st_size
    largest = size * (LARGEST_DEFLATE_RATIO if isinstance(stream, gzip.GzipFile) else 1)
    claimed = layout.offset + layout.num_bytes
    if claimed > largest:
        shape = "x".join(map(str, layout.header.shape))
        raise VolumeError(
            f"{path}: truncated, or its header lies: {shape} voxels of {layout.header.dtype} take {claimed} bytes, the "
            f"file of {size} bytes can hold {largest}"
        )
