"""Cases as nnU-Net names their files: ``CASE_0000.nii.gz`` is the first channel of ``CASE``, ``CASE_0001.nii.gz`` the
second, and its labels are ``CASE.nii.gz``."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from detseg.arrays import DoubleArray
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader
from detseg.runtime.volumes.volume_files import (
    VOLUME_SUFFIXES,
    is_volume_path,
    read_volume,
    read_volume_header,
    volume_stem,
)
from detseg.volumes import Shape3, Volume, grid_distance_mm, grid_tolerance_mm

FIRST_CHANNEL = "_0000"
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def case_name(path: Path | str, num_channels: int = 1) -> str:
    """The name of the case of which the file ``path`` is the first of ``num_channels`` channels, else the file's own
    without its suffix.

    The number of the channel is left out where it can be no other: there is a file for each channel and no more, and
    none that is called as the case itself. So scans that are merely counted, from 0000 on, keep their numbers.
    """
    path = Path(path)
    stem = volume_stem(path)
    match = _CHANNEL.fullmatch(stem)
    if match is None or not stem.endswith(FIRST_CHANNEL):
        return stem
    case = match[1]
    stems = {volume_stem(one) for one in _volumes_beside(path)}
    numbered = {one for one in stems if (other := _CHANNEL.fullmatch(one)) and other[1] == case}
    expected = {f"{case}_{channel:04d}" for channel in range(num_channels)}
    # A file of several channels may have the number of the first, too.
    return case if numbered in (expected, {stem}) and case not in stems else stem


def case_of(path: Path | str) -> tuple[str, int] | None:
    """The case and the number of the channel by the name of the file ``path``; None where it has no such name."""
    match = _CHANNEL.fullmatch(volume_stem(path))
    return None if match is None else (match[1], int(match[2]))


def channel_files(path: Path | str, num_channels: int) -> tuple[Path, ...]:
    """The files of the ``num_channels`` channels of the case whose first is in ``path``: one for each where its name
    has the number of the first channel, otherwise ``path`` alone, which then must hold all.

    Raises:
        VolumeError: files of channels are missing, or there are more.
    """
    path = Path(path)
    stem = volume_stem(path)
    if num_channels == 1 or not stem.endswith(FIRST_CHANNEL):
        return (path,)
    case = stem.removesuffix(FIRST_CHANNEL)
    file_of = {volume_stem(one): one for one in _volumes_beside(path)}
    wanted = [path, *(file_of.get(f"{case}_{channel:04d}") for channel in range(1, num_channels))]
    if wanted[1:] == [None] * (num_channels - 1):
        return (path,)
    missing = [f"{case}_{channel:04d}" for channel, file in enumerate(wanted) if file is None]
    further = f"{case}_{num_channels:04d}"
    if missing or further in file_of:
        there = sum((case_of(name) or ("", 0))[0] == case for name in file_of)
        said = (
            f"there is no {missing[0]}{{{','.join(VOLUME_SUFFIXES)}}} beside it" if missing else f"there is {further}"
        )
        raise VolumeError(
            f"{path}: {num_channels} channels of the case {case} were expected, {there} are there: {said}"
        )
    return tuple(file for file in wanted if file is not None)


def read_case_header(path: Path | str, num_channels: int) -> VolumeHeader:
    """The header of the case of ``num_channels`` channels whose first is in ``path``, see :func:`channel_files`.

    Raises:
        VolumeError: a file is missing or of no use, or its voxels lie elsewhere than those of the first.
    """
    files = channel_files(path, num_channels)
    if len(files) == 1:
        return read_volume_header(path, num_channels)
    headers = [read_volume_header(file) for file in files]
    for file, header in zip(files[1:], headers[1:], strict=True):
        _require_grid_of(headers[0].shape, headers[0].affine, files[0], header.shape, header.affine, file)
    return replace(headers[0], num_channels=num_channels)


def read_case(path: Path | str, num_channels: int, *, quiet: bool = False) -> Volume:
    """The scan of ``num_channels`` channels whose first is in ``path``, as ``read_volume`` reads each file.

    Raises:
        VolumeError: as :func:`read_case_header`; also if the data are damaged or a voxel is not finite.
    """
    files = channel_files(path, num_channels)
    if len(files) == 1:
        return read_volume(path, num_channels, quiet=quiet)
    first = read_volume(files[0], quiet=quiet)
    voxels = [first.voxels]
    for file in files[1:]:
        volume = read_volume(file, quiet=True)
        _require_grid_of(first.shape, first.affine, files[0], volume.shape, volume.affine, file)
        voxels.append(volume.voxels)
    return Volume(np.stack(voxels), first.affine, first.forms)


def _require_grid_of(
    shape: Shape3, affine: DoubleArray, path: Path, other_shape: Shape3, other_affine: DoubleArray, other: Path
) -> None:
    if other_shape != shape:
        raise VolumeError(
            f"{other}: {'x'.join(map(str, other_shape))} voxels, but the first channel {path.name} has "
            f"{'x'.join(map(str, shape))}; all channels of a case need one grid"
        )
    distance, allowed = grid_distance_mm(affine, other_affine, shape), grid_tolerance_mm(affine, shape)
    if distance > allowed:
        raise VolumeError(
            f"{other}: its voxels lie up to {distance:.4g} mm away from those of the first channel {path.name}, "
            f"allowed are {allowed:.4g} mm; resample it to that"
        )


def _volumes_beside(path: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(path.parent) if not name.startswith(".")]  # noqa: PTH208 - names alone
    except OSError as error:
        raise VolumeError(f"{path}: its folder cannot be read: {error.strerror}") from error
    return [one for one in (path.parent / name for name in names) if is_volume_path(one)]
