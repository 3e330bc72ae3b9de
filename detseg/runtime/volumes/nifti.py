"""Volumes from NIfTI files and back."""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray, FloatArray, IntArray
from detseg.files import atomic_path
from detseg.memory import usable_memory
from detseg.runtime.volumes.nifti_forms import header_with
from detseg.runtime.volumes.nifti_header import (
    Layout,
    VolumeError,
    VolumeHeader,
    open_nifti,
    read_bytes,
    read_layout,
    require_nibabel,
)
from detseg.volumes import LabelVolume, StoredForms, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
"""How the names of files end that hold a header and voxels."""

_LARGEST_WHOLE_DOUBLE = 2.0**53
_LABEL_ERROR = 1e-3
"""How far a label may be from a whole number. Interpolated labels have voxels much farther away."""
_NO_EXTENSION = bytes(4)
"""What follows a header behind which nothing but voxels comes."""
MEMORY_SHARE = 0.5
"""The share of this process's memory that one volume may take, from its file to its result; others are read ahead."""
_READ_BYTES = 4
"""What reading a scan takes for each voxel, whatever the file holds: float32."""
_LABEL_BYTES = 40
"""The same for labels: integers of 64 bits, and several such arrays while they are checked and mapped to classes."""
_MOST_BEHIND_VOXELS = 2**26
_PART_VOXELS = 2**20


def read_volume_header(path: Path | str, num_channels: int = 1) -> VolumeHeader:
    """The header of the file ``path``, which holds ``num_channels``, checked; voxels are not read.

    Raises:
        VolumeError: there is no such file, it is no NIfTI file, has not 3 dimensions (beside that of several channels)
            or holds no real numbers, its affine is of no use, or it is too short for the voxels that it claims to have.
        ValueError: nibabel is not installed.
    """
    with open_nifti(path) as stream:
        return read_layout(stream, path, num_channels).header


def read_volume(path: Path | str, num_channels: int = 1, *, quiet: bool = False) -> Volume:
    """The scan in the file ``path``, scaled as its header says; where that contradicts itself, or names no orientation,
    this warns unless ``quiet``.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not finite in float32.
        ValueError: nibabel is not installed.
    """
    voxels, layout = _read_scan(path, num_channels)
    for doubt in () if quiet else layout.header.doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return Volume(voxels, layout.header.affine, layout.header.forms)


def read_label_values(path: Path | str) -> tuple[IntArray, DoubleArray]:
    """The whole numbers ``[X, Y, Z]`` in the file ``path`` and its affine; floating-point files of such numbers too,
    which programs that scale them store with small errors.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not a whole number.
        ValueError: nibabel is not installed.
    """
    stored, layout = _read(path, _LABEL_BYTES)
    return whole_numbers(path, _scaled(stored, layout), _advice_on_fractions(layout)), layout.header.affine


def finite_scan(path: Path | str, values: NDArray[Any]) -> FloatArray:
    """``values`` of the scan ``path`` as float32. Raises VolumeError: one is not finite."""
    with np.errstate(over="ignore"):
        voxels: FloatArray = values.astype(np.float32, copy=False)
    finite = np.isfinite(voxels)
    if not finite.all():
        first = tuple(int(position) for position in np.argwhere(~finite)[0])
        raise VolumeError(
            f"{path}: {np.count_nonzero(~finite)} of {finite.size} voxels are NaN or infinite in float32, the first at "
            f"{first}; replace them with numbers"
        )
    return voxels


def whole_numbers(path: Path | str, values: NDArray[Any], advice: str) -> IntArray:
    """``values`` of the label file ``path`` as whole numbers, rounded where they are almost that already.

    Raises:
        VolumeError: one is no whole number, and then ``advice`` is given, or does not fit in 64 bits with a sign.
    """
    if values.dtype == np.uint64 and values.max() > np.iinfo(np.int64).max:
        raise VolumeError(f"{path}: a label must fit in 64 bits with a sign, got {values.max()}")
    if values.dtype.kind == "f":
        # Not a number and infinity are no whole numbers either.
        with np.errstate(invalid="ignore"):
            wrong = ~((np.abs(values - np.rint(values)) <= _LABEL_ERROR) & (np.abs(values) < _LARGEST_WHOLE_DOUBLE))
        if wrong.any():
            first = tuple(int(position) for position in np.argwhere(wrong)[0])
            raise VolumeError(
                f"{path}: a label must be a whole number, but {np.count_nonzero(wrong)} of {wrong.size} voxels are "
                f"not: {values[first]} at {first}; {advice}"
            )
        values = np.rint(values)
    return values.astype(np.int64)


def write_label_volume(path: Path | str, volume: LabelVolume, forms: StoredForms | None = None) -> None:
    """Write labels as uint8 to ``path`` (.nii or .nii.gz), whole or not at all; equal labels give equal bytes.

    ``forms`` are those of the scan, which the labels then say word for word; without them both forms say the affine.

    Raises:
        ValueError: the name ends otherwise, or nibabel is not installed.
        SaveError: the file cannot be written.
    """
    write_label_values(path, volume.labels, volume.affine, forms)


def write_label_values(
    path: Path | str, values: NDArray[np.integer], affine: DoubleArray, forms: StoredForms | None = None
) -> None:
    """Write whole numbers ``[X, Y, Z]`` in their own type. Otherwise as :func:`write_label_volume`."""
    _write(Path(path), values, affine, "label", forms)


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a scan as float32 to ``path``. Raises like :func:`write_label_volume`."""
    _write(Path(path), volume.voxels, volume.affine, "none", volume.forms)


def write_probabilities(
    path: Path | str, probabilities: FloatArray, affine: DoubleArray, forms: StoredForms | None = None
) -> None:
    """Write probabilities ``[C, X, Y, Z]`` with the classes as the fourth dimension, as 16 bits that the header scales.
    Otherwise as :func:`write_label_volume`."""
    largest = np.iinfo(np.uint16).max
    stored = np.moveaxis(np.rint(probabilities.clip(0, 1) * largest).astype(np.uint16), 0, -1)
    _write(Path(path), stored, affine, "none", forms, slope=1 / largest)


def require_memory(path: Path | str, num_bytes: float, shape: tuple[int, ...]) -> None:
    """Raise VolumeError where the volume ``path`` of this ``shape`` would take ``num_bytes`` from its file to its
    result, which is more than ``MEMORY_SHARE`` of what there is."""
    allowed = MEMORY_SHARE * usable_memory()
    if num_bytes > allowed:
        raise VolumeError(
            f"{path}: its {'x'.join(map(str, shape))} voxels would take some {num_bytes / 1e9:.1f} GB of memory, one "
            f"volume may take {allowed / 1e9:.1f} GB here; cut it into parts or resample it, if its header does not lie"
        )


def _read_scan(path: Path | str, num_channels: int) -> tuple[FloatArray, Layout]:
    """The voxels as the header scales them, ``[X, Y, Z]`` or ``[C, X, Y, Z]`` float32, made of a part of the file after
    the other."""
    with open_nifti(path) as stream:
        layout = read_layout(stream, path, num_channels)
        num_voxels = math.prod(layout.header.shape) * num_channels
        require_memory(path, _READ_BYTES * num_voxels, layout.header.shape)
        if layout.image is None:
            values, num_bytes = _read_scaled(stream, num_voxels, layout, path)
        else:
            with open_nifti(layout.image) as voxels:
                values, num_bytes = _read_scaled(voxels, num_voxels, layout, layout.image)
    _require_all(path, layout, num_bytes)
    scan = _shaped(np.frombuffer(values, np.float32), layout)
    is_finite = all(np.isfinite(part).all() for part in scan)
    return scan if is_finite else finite_scan(path, scan), layout


def _read_scaled(
    stream: BinaryIO | gzip.GzipFile, num_voxels: int, layout: Layout, path: Path | str
) -> tuple[bytearray, int]:
    """``num_voxels`` as float32, or as many as there are, and how many bytes they were; memory grows with these."""
    _seek(stream, layout, path)
    values, done, each = bytearray(), 0, layout.dtype.itemsize
    while done < num_voxels:
        data = read_bytes(stream, min(_PART_VOXELS, num_voxels - done) * each, path)
        count = len(data) // each
        with np.errstate(over="ignore"):
            part = _scaled(np.frombuffer(data, layout.dtype, count), layout).astype(np.float32, copy=False)
        values += part.data
        done += count
        if count < _PART_VOXELS and done < num_voxels:
            return values, (done - count) * each + len(data)
    _read_to_end(stream, path)
    return values, layout.num_bytes


def _read(path: Path | str, bytes_each: int) -> tuple[NDArray[Any], Layout]:
    """The voxels as they are stored, ``[X, Y, Z]``, and the layout that says what they mean. ``bytes_each``: what will
    be made of each voxel."""
    with open_nifti(path) as stream:
        layout = read_layout(stream, path)
        num_voxels = math.prod(layout.header.shape)
        require_memory(path, layout.num_bytes + bytes_each * num_voxels, layout.header.shape)
        if layout.image is None:
            data = _read_voxels(stream, layout, path)
        else:
            with open_nifti(layout.image) as voxels:
                data = _read_voxels(voxels, layout, layout.image)
    _require_all(path, layout, len(data))
    return _shaped(np.frombuffer(data, layout.dtype), layout), layout


def _require_all(path: Path | str, layout: Layout, num_bytes: int) -> None:
    if num_bytes < layout.num_bytes:
        shape = "x".join(map(str, layout.header.shape))
        raise VolumeError(
            f"{path}: truncated, or its header lies: {shape} voxels of {layout.header.dtype} take {layout.num_bytes} "
            f"bytes, there are {num_bytes}"
        )


def _shaped(values: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """``values`` in the order of the file as ``[X, Y, Z]``, of several channels ``[C, X, Y, Z]``."""
    shape, num_channels = layout.header.shape, layout.header.num_channels
    if num_channels == 1:
        return values.reshape(shape, order="F")
    return np.moveaxis(values.reshape((*shape, num_channels), order="F"), -1, 0)


def _seek(stream: BinaryIO | gzip.GzipFile, layout: Layout, path: Path | str) -> None:
    try:
        stream.seek(layout.offset)
    except (EOFError, zlib.error, OSError) as error:
        raise VolumeError(f"{path}: damaged or truncated before its voxels: {error}") from error


def _read_voxels(stream: BinaryIO | gzip.GzipFile, layout: Layout, path: Path | str) -> bytearray:
    _seek(stream, layout, path)
    data = read_bytes(stream, layout.num_bytes, path)
    _read_to_end(stream, path)
    return data


def _read_to_end(stream: BinaryIO | gzip.GzipFile, path: Path | str) -> None:
    """Read what is behind the voxels: at the end of the stream gzip compares checksum and length."""
    behind = 0
    while num_bytes := len(_read_behind(stream, path)):
        behind += num_bytes
        if behind > _MOST_BEHIND_VOXELS:
            raise VolumeError(f"{path}: there are more than {_MOST_BEHIND_VOXELS:,} bytes behind its voxels")


def _read_behind(stream: BinaryIO | gzip.GzipFile, path: Path | str) -> bytes | bytearray:
    """Some bytes behind the voxels; none where what follows is not compressed, which gzip itself passes over, too."""
    try:
        return read_bytes(stream, 2**20, path)
    except VolumeError as error:
        # Raised only when the sum of all that went before has been found right.
        if isinstance(error.__cause__, gzip.BadGzipFile) and "Not a gzipped file" in str(error.__cause__):
            return b""
        raise


def _advice_on_fractions(layout: Layout) -> str:
    if not layout.is_scaled:
        return "resample labels with the nearest neighbor only"
    return (
        f"what is stored are {layout.header.dtype} that the header scales by scl_slope {layout.slope:g} and shifts by "
        f"scl_inter {layout.intercept:g}: save labels as whole numbers with scl_slope 1 and scl_inter 0"
    )


def _scaled(stored: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if not layout.is_scaled:
        return stored
    scaled: NDArray[Any] = stored * np.float64(layout.slope) + np.float64(layout.intercept)
    return scaled


def _write(
    path: Path, array: NDArray[Any], affine: DoubleArray, intent: str, forms: StoredForms | None, slope: float = 1.0
) -> None:
    if not str(path).lower().endswith(NIFTI_SUFFIXES):
        raise ValueError(f"{path}: the name of a volume ends in {' or '.join(NIFTI_SUFFIXES)}")
    require_nibabel()
    header = header_with(forms, affine, array.shape)
    header.set_intent(intent)
    header.set_data_dtype(array.dtype)
    if slope != 1.0:
        header.set_slope_inter(slope, 0.0)
    # Not through an image of nibabel, which mends what a header says.
    begin: bytes = header.binaryblock
    header["vox_offset"] = len(begin) + len(_NO_EXTENSION)
    data = header.binaryblock + _NO_EXTENSION + array.tobytes(order="F")
    with atomic_path(path) as temporary:
        if path.name.lower().endswith(".gz"):
            # No time stamp: the same labels make the same file.
            data = gzip.compress(data, compresslevel=6, mtime=0)
        temporary.write_bytes(data)
