"""Volumes from NIfTI files and back."""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray, IntArray
from detseg.files import atomic_path
from detseg.memory import usable_memory
from detseg.runtime.media.nifti_forms import header_with
from detseg.runtime.media.nifti_header import (
    Layout,
    VolumeError,
    VolumeHeader,
    open_nifti,
    read_bytes,
    read_layout,
    require_nibabel,
)
from detseg.volumes import LabelVolume, StoredForms, Volume

VOLUME_SUFFIXES = (".nii.gz", ".nii")

_LARGEST_WHOLE_DOUBLE = 2.0**53
_LABEL_ERROR = 1e-3
"""How far a label may be from a whole number. Interpolated labels have voxels much farther away."""
_NO_EXTENSION = bytes(4)
"""What follows a header behind which nothing but voxels comes."""
MEMORY_SHARE = 0.5
"""The share of this process's memory that one volume may take, from its file to its result; others are read ahead."""
_READ_BYTES, _SCALED_BYTES = 5, 20
"""What reading takes for each voxel beside what the file holds: float32 and a flag, and two arrays of doubles."""
_LABEL_BYTES = 40
"""The same for labels: integers of 64 bits, and several such arrays while they are checked and mapped to classes."""
_MOST_BEHIND_VOXELS = 2**26


def is_volume_path(path: Path | str) -> bool:
    """Whether the name of ``path`` is that of a NIfTI file."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def volume_stem(path: Path | str) -> str:
    """The name of ``path`` without folder and suffix, which for volumes may be the double one: a.nii.gz gives a."""
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


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
    stored, layout = _read(path, _read_bytes_each, num_channels)
    for doubt in () if quiet else layout.header.doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    with np.errstate(over="ignore"):
        voxels = _scaled(stored, layout).astype(np.float32, copy=False)
    finite = np.isfinite(voxels)
    if not finite.all():
        first = tuple(int(position) for position in np.argwhere(~finite)[0])
        raise VolumeError(
            f"{path}: {np.count_nonzero(~finite)} of {finite.size} voxels are NaN or infinite in float32, the first at "
            f"{first}; replace them with numbers"
        )
    return Volume(voxels, layout.header.affine, layout.header.forms)


def read_label_values(path: Path | str) -> tuple[IntArray, DoubleArray]:
    """The whole numbers ``[X, Y, Z]`` in the file ``path`` and its affine; floating-point files of such numbers too,
    which programs that scale them store with small errors.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not a whole number.
        ValueError: nibabel is not installed.
    """
    stored, layout = _read(path, lambda _: _LABEL_BYTES)
    values = _scaled(stored, layout)
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
                f"not: {values[first]} at {first}; {_advice_on_fractions(layout)}"
            )
        values = np.rint(values)
    return values.astype(np.int64), layout.header.affine


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


def require_memory(path: Path | str, num_bytes: float, shape: tuple[int, ...]) -> None:
    """Raise VolumeError where the volume ``path`` of this ``shape`` would take ``num_bytes`` from its file to its
    result, which is more than ``MEMORY_SHARE`` of what there is."""
    allowed = MEMORY_SHARE * usable_memory()
    if num_bytes > allowed:
        raise VolumeError(
            f"{path}: its {'x'.join(map(str, shape))} voxels would take some {num_bytes / 1e9:.1f} GB of memory, one "
            f"volume may take {allowed / 1e9:.1f} GB here; cut it into parts or resample it, if its header does not lie"
        )


def _read_bytes_each(layout: Layout) -> int:
    return _SCALED_BYTES if layout.is_scaled else _READ_BYTES


def _read(path: Path | str, bytes_each: Callable[[Layout], int], num_channels: int = 1) -> tuple[NDArray[Any], Layout]:
    """The voxels as they are stored, ``[X, Y, Z]`` or ``[C, X, Y, Z]``, and the layout that says what
    they mean. ``bytes_each``: what will be made of each voxel."""
    with open_nifti(path) as stream:
        layout = read_layout(stream, path, num_channels)
        num_voxels = math.prod(layout.header.shape) * num_channels
        require_memory(path, layout.num_bytes + bytes_each(layout) * num_voxels, layout.header.shape)
        try:
            stream.seek(layout.offset)
        except (EOFError, zlib.error, OSError) as error:
            raise VolumeError(f"{path}: damaged or truncated before its voxels: {error}") from error
        data = read_bytes(stream, layout.num_bytes, path)
        _read_to_end(stream, path)
    if len(data) < layout.num_bytes:
        shape = "x".join(map(str, layout.header.shape))
        raise VolumeError(
            f"{path}: truncated, or its header lies: {shape} voxels of {layout.header.dtype} take {layout.num_bytes} "
            f"bytes, there are {len(data)}"
        )
    values = np.frombuffer(data, layout.dtype)
    if num_channels == 1:
        return values.reshape(layout.header.shape, order="F"), layout
    return np.moveaxis(values.reshape((*layout.header.shape, num_channels), order="F"), -1, 0), layout


def _read_to_end(stream: BinaryIO | gzip.GzipFile, path: Path | str) -> None:
    """Read what is behind the voxels: at the end of the stream gzip compares checksum and length."""
    behind = 0
    while num_bytes := len(read_bytes(stream, 2**20, path)):
        behind += num_bytes
        if behind > _MOST_BEHIND_VOXELS:
            raise VolumeError(f"{path}: there are more than {_MOST_BEHIND_VOXELS:,} bytes behind its voxels")


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


def _write(path: Path, array: NDArray[Any], affine: DoubleArray, intent: str, forms: StoredForms | None) -> None:
    if not is_volume_path(path):
        raise ValueError(f"{path}: the name of a volume ends in {' or '.join(VOLUME_SUFFIXES)}")
    require_nibabel()
    header = header_with(forms, affine, array.shape)
    header.set_intent(intent)
    header.set_data_dtype(array.dtype)
    # Not through an image of nibabel, which mends what a header says.
    begin: bytes = header.binaryblock
    header["vox_offset"] = len(begin) + len(_NO_EXTENSION)
    data = header.binaryblock + _NO_EXTENSION + array.tobytes(order="F")
    with atomic_path(path) as temporary:
        if path.name.lower().endswith(".gz"):
            # No time stamp: the same labels make the same file.
            data = gzip.compress(data, compresslevel=6, mtime=0)
        temporary.write_bytes(data)
