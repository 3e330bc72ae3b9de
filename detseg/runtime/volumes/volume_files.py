"""Files of volumes, whatever their format: NIfTI, what ITK reads, and folders with a DICOM series."""

from __future__ import annotations

import math
import warnings
from itertools import islice
from pathlib import Path

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.runtime.volumes import nifti
from detseg.runtime.volumes.dicom import (
    DICOM_SUFFIXES,
    is_dicom_folder,
    read_dicom_header,
    read_dicom_values,
    slice_files,
)
from detseg.runtime.volumes.itk_files import ITK_SUFFIXES, read_itk_header, read_itk_values
from detseg.runtime.volumes.nifti import finite_scan, require_memory, whole_numbers
from detseg.runtime.volumes.nifti_header import PAIR_SUFFIXES, VolumeError, VolumeHeader, image_of_pair
from detseg.runtime.volumes.text_header import read_text_header
from detseg.volumes import Volume

VOLUME_SUFFIXES = (*nifti.NIFTI_SUFFIXES, *PAIR_SUFFIXES, *ITK_SUFFIXES)
"""How the names of files end that are volumes; a folder with a DICOM series is one, too."""
_MOST_LOOKED_AT, _MOST_NAMED = 20, 5
_READ_BYTES, _LABEL_BYTES = 9, 40
"""What reading takes for each voxel: ITK's array and float32 with a flag; labels as integers of 64 bits."""


def is_volume_path(path: Path | str) -> bool:
    """Whether ``path`` is a volume, by the name of a file or the content of a folder."""
    return str(path).lower().endswith(VOLUME_SUFFIXES) or is_dicom_folder(path)


def volume_exists(path: Path) -> bool:
    """Whether there is such a file, or folder with a DICOM series."""
    return path.is_file() or is_dicom_folder(path)


def volume_stem(path: Path | str) -> str:
    """The name of ``path`` without folder and suffix, which for volumes may be the double one: a.nii.gz gives a. The
    whole name of a folder."""
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name if Path(path).is_dir() else Path(name).stem


def describe_other_files(folder: Path) -> str:
    """What lies in ``folder``, in which there is no volume, and what to do about it: DICOM series in folders of
    folders, DICOM files without the header of files, or the names of others. Raises OSError: it cannot be read."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in islice((one for one in inside if one.is_dir()), _MOST_LOOKED_AT):
        below = sorted(one for one in path.iterdir() if not one.name.startswith("."))
        deeper = next((one for one in islice(below, _MOST_LOOKED_AT) if is_dicom_folder(one)), None)
        if deeper is not None:
            return (
                f"{path.name}/{deeper.name} is a DICOM series, but lies in a folder in it: move the slices of each "
                f"case up into {path.name}, or name the series by the glob {folder / '*' / '*'}, for predictions"
            )
        bare = next((one for one in below if one.name.lower().endswith(DICOM_SUFFIXES)), None)
        if bare is not None:
            return (
                f"{path.name}/{bare.name} has the name of a DICOM file, but lacks the word DICM at byte 128, with "
                "which such files begin: export the series anew, as files of DICOM's part 10"
            )
    names = [path.name for path in inside]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"it has {', '.join(names[:_MOST_NAMED])}{more}" if names else "it is empty"


def stored_files(path: Path) -> list[Path]:
    """All files that the volume ``path`` lies in. Raises VolumeError: its header, or folder, cannot be read."""
    if _is_itk(path):
        return list(dict.fromkeys([path, read_text_header(path).data]))
    if path.is_dir():
        return slice_files(path)
    image = image_of_pair(path)
    return [path, image] if image is not None and image.exists() else [path]


def read_volume_header(path: Path | str, num_channels: int = 1) -> VolumeHeader:
    """The header of ``path``, which holds ``num_channels``, checked; voxels are not read.

    Raises:
        VolumeError: there is no such file, it is of no use, or it is too short for the voxels that it claims to have.
        ValueError: the package that reads its format is not installed.
    """
    path = Path(path)
    if _is_itk(path):
        return read_itk_header(path, num_channels)
    if path.is_dir():
        _require_one_channel(path, num_channels)
        return read_dicom_header(path)
    return nifti.read_volume_header(path, num_channels)


def read_volume(path: Path | str, num_channels: int = 1, *, quiet: bool = False) -> Volume:
    """The scan in ``path``; where its header contradicts itself, or names no orientation, this warns unless ``quiet``.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not finite in float32.
        ValueError: the package that reads its format is not installed.
    """
    path = Path(path)
    if not _is_itk(path) and not path.is_dir():
        return nifti.read_volume(path, num_channels, quiet=quiet)
    _require_memory(path, num_channels, _READ_BYTES)
    if _is_itk(path):
        values, header = read_itk_values(path, num_channels)
    else:
        values, header = read_dicom_values(path)
    for doubt in () if quiet else header.doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    return Volume(finite_scan(path, values), header.affine)


def read_label_values(path: Path | str) -> tuple[IntArray, DoubleArray]:
    """The whole numbers ``[X, Y, Z]`` in ``path`` and its affine; floating-point files of such numbers too.

    Raises:
        VolumeError: as :func:`read_volume_header`; also if the data are damaged or a voxel is not a whole number.
        ValueError: the package that reads its format is not installed.
    """
    path = Path(path)
    if not _is_itk(path) and not path.is_dir():
        return nifti.read_label_values(path)
    _require_memory(path, 1, _LABEL_BYTES)
    values, header = read_itk_values(path, 1) if _is_itk(path) else read_dicom_values(path)
    return whole_numbers(path, values, "resample labels with the nearest neighbor only"), header.affine


def _is_itk(path: Path) -> bool:
    return path.name.lower().endswith(ITK_SUFFIXES) and not path.is_dir()


def _require_one_channel(path: Path, num_channels: int) -> None:
    if num_channels != 1:
        raise VolumeError(
            f"{path}: a DICOM series has one channel, {num_channels} were expected; name the folders of the channels "
            "CASE_0000, CASE_0001, ..."
        )


def _require_memory(path: Path, num_channels: int, bytes_each: int) -> None:
    header = read_volume_header(path, num_channels)
    stored = np.dtype(header.dtype).itemsize
    require_memory(path, (stored + bytes_each) * math.prod(header.shape) * num_channels, header.shape)
