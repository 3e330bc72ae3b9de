"""Volumes from NIfTI files and back."""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray, IntArray
from detseg.files import atomic_path
from detseg.runtime.media.nifti_header import (
    Layout,
    VolumeError,
    VolumeHeader,
    open_nifti,
    read_bytes,
    read_layout,
    require_nibabel,
)
from detseg.volumes import LabelVolume, Volume

VOLUME_SUFFIXES = (".nii.gz", ".nii")

_LARGEST_WHOLE_DOUBLE = 2.0**53
_LABEL_ERROR = 1e-3
"""How far a label may be from a whole number. Interpolated labels have voxels much farther away."""
_LONGEST_NIFTI_1_SIDE = 2**15 - 1


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


def read_volume_header(path: Path | str) -> VolumeHeader:
    """The header of the file ``path``, checked; voxels are not read.

    Raises:
        VolumeError: there is no such file, it is no NIfTI file, has not 3 dimensions or holds no real numbers, its
            affine is of no use, or it is too short for the voxels that it claims to have.
        ValueError: nibabel is not installed.
    """
    with open_nifti(path) as stream:
        return read_layout(stream, path).header


def read_volume(path: Path | str, *, quiet: bool = False) -> Volume:
    """The scan in the file ``path``, scaled as its header says; where that contradicts itself, this warns unless
    ``quiet``.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not finite in float32.
        ValueError: nibabel is not installed.
    """
    stored, layout = _read(path)
    if layout.header.disagreement and not quiet:
        warnings.warn(f"{path}: {layout.header.disagreement}", stacklevel=2)
    with np.errstate(over="ignore"):
        voxels = _scaled(stored, layout).astype(np.float32, copy=False)
    finite = np.isfinite(voxels)
    if not finite.all():
        first = tuple(int(position) for position in np.argwhere(~finite)[0])
        raise VolumeError(
            f"{path}: {np.count_nonzero(~finite)} of {finite.size} voxels are NaN or infinite in float32, the first at "
            f"{first}; replace them with numbers"
        )
    return Volume(voxels, layout.header.affine)


def read_label_values(path: Path | str) -> tuple[IntArray, DoubleArray]:
    """The whole numbers ``[X, Y, Z]`` in the file ``path`` and its affine; floating-point files of such numbers too,
    which programs that scale them store with small errors.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not a whole number.
        ValueError: nibabel is not installed.
    """
    stored, layout = _read(path)
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
                f"not: {values[first]} at {first}; resample labels with the nearest neighbor only"
            )
        values = np.rint(values)
    return values.astype(np.int64), layout.header.affine


def write_label_volume(path: Path | str, volume: LabelVolume) -> None:
    """Write labels as uint8 to ``path`` (.nii or .nii.gz), whole or not at all; equal labels give equal bytes.

    Raises:
        ValueError: the name ends otherwise, or nibabel is not installed.
        SaveError: the file cannot be written.
    """
    _write(Path(path), volume.labels, volume.affine, intent="label")


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a scan as float32 to ``path``. Raises like :func:`write_label_volume`."""
    _write(Path(path), volume.voxels, volume.affine, intent="none")


def _read(path: Path | str) -> tuple[NDArray[Any], Layout]:
    """The voxels as they are stored ``[X, Y, Z]``, and the layout that says what they mean."""
    with open_nifti(path) as stream:
        layout = read_layout(stream, path)
        try:
            stream.seek(layout.offset)
        except (EOFError, zlib.error, OSError) as error:
            raise VolumeError(f"{path}: damaged or truncated before its voxels: {error}") from error
        data = read_bytes(stream, layout.num_bytes, path)
        # At the end of the stream gzip compares its checksum.
        read_bytes(stream, 1, path)
    if len(data) < layout.num_bytes:
        shape = "x".join(map(str, layout.header.shape))
        raise VolumeError(
            f"{path}: truncated, or its header lies: {shape} voxels of {layout.header.dtype} take {layout.num_bytes} "
            f"bytes, there are {len(data)}"
        )
    return np.frombuffer(data, layout.dtype).reshape(layout.header.shape, order="F"), layout


def _scaled(stored: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if layout.slope == 1.0 and layout.intercept == 0.0:
        return stored
    scaled: NDArray[Any] = stored * np.float64(layout.slope) + np.float64(layout.intercept)
    return scaled


def _write(path: Path, array: NDArray[Any], affine: DoubleArray, intent: str) -> None:
    if not is_volume_path(path):
        raise ValueError(f"{path}: the name of a volume ends in {' or '.join(VOLUME_SUFFIXES)}")
    nibabel = require_nibabel()
    kind = nibabel.Nifti1Image if max(array.shape) <= _LONGEST_NIFTI_1_SIDE else nibabel.Nifti2Image
    image = kind(array, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    data: bytes = image.to_bytes()
    with atomic_path(path) as temporary:
        if path.name.lower().endswith(".gz"):
            # No time stamp: the same labels make the same file.
            data = gzip.compress(data, compresslevel=6, mtime=0)
        temporary.write_bytes(data)
