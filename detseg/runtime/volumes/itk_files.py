"""Volumes that ITK reads: MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr); labels are written to them, too.

ITK counts toward the patient's left and back, volumes here toward the right and the front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray
from detseg.files import atomic_path
from detseg.runtime.media.native_names import native_name
from detseg.runtime.volumes.nifti_forms import require_usable
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader, require_few_voxels
from detseg.runtime.volumes.text_header import (
    META_IMAGE_SUFFIXES,
    NRRD_SUFFIXES,
    TextHeader,
    read_text_header,
    require_intact,
    require_room,
)
from detseg.volumes import spacing_of

ITK_SUFFIXES = (*META_IMAGE_SUFFIXES, *NRRD_SUFFIXES)

_TURNED = np.diag([-1.0, -1.0, 1.0, 1.0])
_NUMBERS = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")
_NO_ORIENTATION = (
    "no orientation in its header: its axes are taken to run toward the left, the back and the top, as ITK does: make "
    "sure of it"
)
_NO_SPACING = (
    "no spacing in its header: its voxels are taken to be 1x1x1 mm, as ITK does, so that volumes in milliliters, and "
    "the size in which a network sees them, may be wrong: write the spacing into it"
)


@dataclass(frozen=True, slots=True)
class _Opened:
    header: VolumeHeader
    text: TextHeader
    num_bytes: int


def require_itk(path: Path | str) -> Any:
    """The package SimpleITK, which ``path`` needs. Raises ValueError: it is not installed."""
    try:
        import SimpleITK
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: this format needs the extra `medical-io`: pip install 'detseg[medical-io]'"
        ) from error
    # What it warns of is either checked here or of no consequence, and would appear between the lines of a bar.
    itk: Any = SimpleITK
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    return itk


@contextmanager
def itk_errors(path: Path | str) -> Iterator[None]:
    """Errors of ITK while the block runs are those of the file ``path``."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise VolumeError(f"{path}: cannot be read by ITK: {lines[-1] if lines else 'no reason given'}") from error


def read_itk_header(path: Path, num_channels: int) -> VolumeHeader:
    """The header of the file ``path``, which holds ``num_channels``, checked; voxels are not read.

    Raises:
        VolumeError: it cannot be read, has not 3 dimensions, other channels or no real numbers, its affine is of no
            use, or it is too short for the voxels that it claims to have.
        ValueError: SimpleITK is not installed.
    """
    return _open(path, num_channels).header


def read_itk_values(path: Path, num_channels: int) -> tuple[NDArray[Any], VolumeHeader]:
    """The voxels of the file ``path`` as they are stored, ``[X, Y, Z]`` or ``[C, X, Y, Z]``.

    Raises:
        VolumeError: as :func:`read_itk_header`; also if the voxels are damaged.
        ValueError: SimpleITK is not installed.
    """
    itk = require_itk(path)
    opened = _open(path, num_channels)
    require_intact(opened.text, path, opened.num_bytes)
    with native_name(path) as name, itk_errors(path):
        array = itk.GetArrayFromImage(_reader(itk, path, name).Execute())
    return axes_of_file(array, num_channels), opened.header


def axes_of_file(array: NDArray[Any], num_channels: int) -> NDArray[Any]:
    """``[Z, Y, X]``, ``[Z, Y, X, C]`` or ``[C, Z, Y, X]`` of SimpleITK -> ``[X, Y, Z]`` or ``[C, X, Y, Z]``. Further
    dimensions of ITK have the length 1 and come first."""
    while array.ndim > 3 + (num_channels > 1):
        array = array[0]
    if num_channels == 1:
        return array.T
    vectors = array.shape[-1] == num_channels and array.shape[0] != num_channels
    return array.T if vectors else array.transpose(0, 3, 2, 1)


def affine_from_itk(direction: Any, spacing: Any, origin: Any) -> DoubleArray:
    """The affine ``[4, 4]`` to millimeters toward right, front and top, of what ITK says of three dimensions."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(direction, np.float64).reshape(3, 3) * np.array(spacing, np.float64)
    affine[:3, 3] = origin
    return _TURNED @ affine


def label_suffix(source: str) -> str:
    """How the name of a label file ends that is in the format of the file ``source``: .mha of MetaImage, .nrrd of NRRD,
    .nii.gz of all others, a DICOM series as well."""
    for suffixes in (META_IMAGE_SUFFIXES, NRRD_SUFFIXES):
        if source.lower().endswith(suffixes):
            return suffixes[0]
    return ".nii.gz"


def write_itk_labels(path: Path, values: NDArray[np.integer[Any]], affine: DoubleArray) -> None:
    """Write whole numbers ``[X, Y, Z]`` in their own type to ``path`` (.mha or .nrrd), compressed, whole or not at all.

    Raises:
        ValueError: the name ends otherwise, or SimpleITK is not installed.
        SaveError: the file cannot be written.
    """
    if not path.name.lower().endswith((META_IMAGE_SUFFIXES[0], NRRD_SUFFIXES[0])):
        raise ValueError(f"{path}: labels are written to {META_IMAGE_SUFFIXES[0]} or {NRRD_SUFFIXES[0]}")
    itk = require_itk(path)
    image = itk.GetImageFromArray(np.ascontiguousarray(values.T))
    turned, spacing = _TURNED @ affine, spacing_of(affine)
    image.SetSpacing(spacing)
    image.SetOrigin(turned[:3, 3].tolist())
    image.SetDirection((turned[:3, :3] / np.array(spacing)).ravel().tolist())
    writer = itk.ImageFileWriter()
    writer.SetImageIO(_io_of(path))
    writer.UseCompressionOn()
    with atomic_path(path) as temporary, native_name(temporary) as name:
        writer.SetFileName(name)
        try:
            writer.Execute(image)
        except RuntimeError as error:
            raise OSError(f"ITK could not write {path}: {error}") from error


def _open(path: Path, num_channels: int) -> _Opened:
    text = read_text_header(path)
    itk = require_itk(path)
    with native_name(path) as name, itk_errors(path):
        reader = _reader(itk, path, name)
        reader.ReadImageInformation()
    size, found = list(reader.GetSize()), reader.GetNumberOfComponents()
    while len(size) > 3 + (num_channels > 1 and found == 1) and size[-1] == 1:
        size.pop()
    if num_channels > 1 and found == 1 and len(size) == 4:
        found = size.pop()
    if found != num_channels or len(size) != 3:
        expected = f"3 dimensions and {num_channels} channels" if num_channels > 1 else "3 dimensions and one channel"
        raise VolumeError(
            f"{path}: {'x'.join(map(str, reader.GetSize()))} voxels with {reader.GetNumberOfComponents()} values each, "
            f"expected {expected}; channels may also be files of their own, CASE_0000, CASE_0001, ..."
        )
    shape = (size[0], size[1], size[2])
    require_few_voxels(shape, num_channels, path)
    dtype = dtype_of(itk, reader, path)
    direction = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)[:3, :3]
    affine = affine_from_itk(direction, reader.GetSpacing()[:3], reader.GetOrigin()[:3])
    try:
        require_usable(affine)
    except ValueError as error:
        raise VolumeError(f"{path}: {error}") from error
    num_bytes = math.prod(shape) * num_channels * dtype.itemsize
    require_room(text, path, num_bytes)
    return _Opened(VolumeHeader(shape, affine, dtype.name, _doubts_about(text), None, num_channels), text, num_bytes)


def _doubts_about(text: TextHeader) -> tuple[str, ...]:
    """What to say of a header that does not say, or in other units, where its voxels lie."""
    doubts = [] if text.has_orientation else [_NO_ORIENTATION]
    if not text.has_spacing:
        doubts.append(_NO_SPACING)
    if text.units:
        doubts.append(
            f"its lengths have the unit {', '.join(map(repr, text.units))}, but count as millimeters, as ITK does: "
            "correct the header, if they are not"
        )
    return tuple(doubts)


def dtype_of(itk: Any, reader: Any, path: Path) -> np.dtype[Any]:
    """The type of the voxels of ``reader``. Raises VolumeError: they are no real numbers."""
    for name in _NUMBERS:
        if reader.GetPixelID() in (getattr(itk, f"sitk{name}"), getattr(itk, f"sitkVector{name}")):
            return np.dtype(name.lower())
    raise VolumeError(
        f"{path}: voxels are {itk.GetPixelIDValueAsString(reader.GetPixelID())}, expected whole or real numbers of up "
        "to 64 bits"
    )


def _reader(itk: Any, path: Path, name: str) -> Any:
    reader = itk.ImageFileReader()
    reader.SetImageIO(_io_of(path))
    reader.SetFileName(name)
    return reader


def _io_of(path: Path) -> str:
    # Chosen by name: ITK would ask every format it knows, by content, on files of strangers.
    return "MetaImageIO" if path.name.lower().endswith(META_IMAGE_SUFFIXES) else "NrrdImageIO"
