"""A series of DICOM slices in a folder of its own as one volume, through SimpleITK (GDCM).

Where slices lie is taken from their own positions (Image Position and Orientation, DICOM PS3.3 C.7.6.2), not from their
numbers or thickness: a series with gaps is refused, a tilted gantry gives a sheared affine.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray
from detseg.files import open_regular
from detseg.runtime.media.native_names import is_utf8
from detseg.runtime.volumes.dicom_elements import require_lengths
from detseg.runtime.volumes.itk_files import affine_from_itk, axes_of_file, itk_errors, require_itk
from detseg.runtime.volumes.nifti_forms import require_usable
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader, require_few_voxels

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_MAGIC, _MAGIC_AT = b"DICM", 128
_NUM_LOOKED_AT = 3
_INDEX_NAME = "DICOMDIR"
_NO_SCANS = {"SEG": "a DICOM segmentation", "RTDOSE": "a radiation dose", "RTSTRUCT": "contours for radiotherapy"}
_OFF_BY = 0.1
"""How far a slice may be from its place, as a share of the distance of slices: positions are rounded text."""


@dataclass(frozen=True, slots=True)
class _Slice:
    name: str
    shape: tuple[int, ...]
    direction: tuple[float, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Series:
    """Slices in their order, or one file with all of them."""

    names: tuple[str, ...]
    header: VolumeHeader


def is_dicom_folder(path: Path | str) -> bool:
    """Whether ``path`` is a folder with DICOM slices in it, by the first few of its files."""
    path = Path(path)
    if not path.is_dir():
        return False
    try:
        with os.scandir(path) as entries:
            files = (one.path for one in entries if _may_be_slice(one))
            return any(is_dicom_file(file) for file in islice(files, _NUM_LOOKED_AT))
    except OSError:
        # Whoever reads it says so.
        return False


def is_dicom_file(path: Path | str) -> bool:
    """Whether the content of the file ``path`` begins as DICOM files do."""
    try:
        with open_regular(path) as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def slice_files(folder: Path) -> list[Path]:
    """The DICOM files in ``folder``, sorted by name. Raises VolumeError: it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(one.path) for one in entries if _may_be_slice(one) and is_dicom_file(one.path))
    except OSError as error:
        raise VolumeError(f"{folder}: cannot be read: {error.strerror}") from error


def series_files(folder: Path) -> tuple[Path, ...]:
    """The files of the slices in ``folder`` in the order of the volume that they make, from its first to its last, or
    the one with all of them. Raises like :func:`read_dicom_header`."""
    return tuple(map(Path, _open(folder).names))


def read_dicom_header(folder: Path) -> VolumeHeader:
    """What the slices in ``folder`` say of the volume that they make; pixels are not read.

    Raises:
        VolumeError: they are not one series of slices of one size at equal distances, or their pixels are no numbers.
        ValueError: SimpleITK is not installed.
    """
    return _open(folder).header


def read_dicom_values(folder: Path) -> tuple[NDArray[Any], VolumeHeader]:
    """The voxels ``[X, Y, Z]`` float32 of the series in ``folder``, rescaled as each slice says.

    Raises:
        VolumeError: as :func:`read_dicom_header`; also if pixels are damaged.
        ValueError: SimpleITK is not installed.
    """
    itk = require_itk(folder)
    series = _open(folder)
    with itk_errors(folder):
        if len(series.names) == 1:
            reader = _reader(itk, series.names[0])
        else:
            reader = itk.ImageSeriesReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileNames(series.names)
        # Slices may have slopes of their own, and the first would decide whether fractions are kept.
        reader.SetOutputPixelType(itk.sitkFloat32)
        array = itk.GetArrayFromImage(reader.Execute())
    return axes_of_file(array, 1), series.header


def _open(folder: Path) -> _Series:
    itk = require_itk(folder)
    files = slice_files(folder)
    if not files:
        raise VolumeError(f"{folder}: there are no DICOM files in it")
    if not is_utf8(str(folder)) or not all(is_utf8(file.name) for file in files):
        # Many files, each of which would need a link of another name.
        raise VolumeError(f"{folder}: its name, or that of a file in it, is not UTF-8, which GDCM needs: rename it")
    with itk_errors(folder):
        slices, numbers = [], Counter[str]()
        for file in files:
            require_lengths(file)
            reader = _reader(itk, str(file))
            reader.ReadImageInformation()
            _require_scan(reader, file)
            numbers[reader.GetMetaData("0020|000e").strip() if reader.HasMetaDataKey("0020|000e") else ""] += 1
            if reader.GetNumberOfComponents() != 1:
                raise VolumeError(f"{folder}: {file.name} has {reader.GetNumberOfComponents()} values for each pixel")
            slices.append(
                _Slice(str(file), reader.GetSize(), reader.GetDirection(), reader.GetSpacing(), reader.GetOrigin())
            )
    if len(numbers) > 1:
        raise VolumeError(
            f"{folder}: {len(numbers)} series are in it, of {', '.join(map(str, numbers.values()))} files; put each "
            "into a folder of its own, and leave out scouts (localizers)"
        )
    if len(slices) == 1:
        only = slices[0]
        if len(only.shape) != 3 or only.shape[2] == 1:
            raise VolumeError(f"{folder}: one slice, a volume needs several")
        affine = affine_from_itk(only.direction, only.spacing, only.origin)
        shape = (only.shape[0], only.shape[1], only.shape[2])
    else:
        slices, affine = _in_order(slices, folder)
        shape = (slices[0].shape[0], slices[0].shape[1], len(slices))
    try:
        require_usable(affine)
    except ValueError as error:
        raise VolumeError(f"{folder}: {error}") from error
    require_few_voxels(shape, 1, folder)
    return _Series(tuple(one.name for one in slices), VolumeHeader(shape, affine, "float32"))


def _require_scan(reader: Any, file: Path) -> None:
    """Segments of a DICOM segmentation lie behind each other as frames: read as slices they would make a volume."""
    kind = reader.GetMetaData("0008|0060").strip() if reader.HasMetaDataKey("0008|0060") else ""
    if kind in _NO_SCANS:
        raise VolumeError(
            f"{file.parent}: {file.name} is {_NO_SCANS[kind]}, no scan: take it away, or, where it is to be labels, "
            "convert it to NIfTI on the grid of its series"
        )


def _in_order(slices: list[_Slice], folder: Path) -> tuple[list[_Slice], DoubleArray]:
    """The slices from the first to the last along their normal, and the affine of the volume."""
    first = slices[0]
    for one in slices:
        if any(length != 1 for length in one.shape[2:]) or one.shape[:2] != first.shape[:2]:
            raise VolumeError(
                f"{folder}: {Path(one.name).name} has {'x'.join(map(str, one.shape))} pixels, "
                f"{Path(first.name).name} {'x'.join(map(str, first.shape))}; slices of a volume have one size: keep "
                "those of one volume, without scouts (localizers)"
            )
        if not (np.allclose(one.direction, first.direction, atol=1e-3) and np.allclose(one.spacing, first.spacing)):
            raise VolumeError(
                f"{folder}: {Path(one.name).name} lies in another plane, or has other pixels, than "
                f"{Path(first.name).name}; keep the slices of one volume, without scouts (localizers)"
            )
    direction = np.array(first.direction, np.float64).reshape(3, 3)
    normal = direction[:, 2]
    ordered = sorted(slices, key=lambda one: float(np.dot(one.origin, normal)))
    origins = np.array([one.origin for one in ordered], np.float64)
    step = (origins[-1] - origins[0]) / (len(ordered) - 1)
    depth = origins @ normal
    distances = np.diff(depth)
    usual = float(np.median(distances))
    same = np.flatnonzero(distances <= _OFF_BY * usual)
    if usual <= 0 or len(same):
        at = int(same[0]) if len(same) else 0
        raise VolumeError(
            f"{folder}: {Path(ordered[at].name).name} and {Path(ordered[at + 1].name).name} lie at the same place; "
            "several times or echoes are several volumes: put each into a folder of its own"
        )
    off = np.abs(origins - (origins[0] + np.arange(len(ordered))[:, None] * step)).max(axis=1)
    if off.max() > _OFF_BY * usual:
        widest = int(np.argmax(distances))
        raise VolumeError(
            f"{folder}: its slices are not equally far apart: {usual:.4g} mm mostly, but {distances[widest]:.4g} mm "
            f"between {Path(ordered[widest].name).name} and {Path(ordered[widest + 1].name).name}; find the missing "
            "slices, or resample the series"
        )
    affine = affine_from_itk(direction, (first.spacing[0], first.spacing[1], 1.0), origins[0])
    # ITK's own, which assumes that slices are stacked along their normal, would be wrong for a tilted gantry.
    affine[:3, 2] = (-step[0], -step[1], step[2])
    return ordered, affine


def _reader(itk: Any, name: str) -> Any:
    reader = itk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    return reader


def _may_be_slice(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name != _INDEX_NAME and entry.is_file()
