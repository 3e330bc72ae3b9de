"""A series of DICOM slices is one volume, where SimpleITK has it; series with gaps are refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg.runtime.sources.finding import SourceError, find_sources
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.reading import read_frames
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES, read_volume, read_volume_header, stored_files
from detseg.runtime.writers.volumes import NiftiWriter
from detseg.volumes import LabelVolume

COUNT = 6
VOXELS = np.random.default_rng(0).integers(-900, 2000, (8, 7, COUNT)).astype(np.int16)
STEP = 2.5
Change = Callable[[int, dict[str, str]], None]


def write_series(folder: Path, change: Change | None = None, suffix: str = ".dcm", count: int = COUNT) -> Path:
    """Slices of a head turned by 20 degrees, whose files are in the wrong order; ``change`` alters the tags of each."""
    folder.mkdir(parents=True, exist_ok=True)
    cos, sin = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    normal = np.array([0, -sin, cos])
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(count):
        place = np.array([10.0, 20.0, 30.0]) + STEP * number * normal
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{number + 1}",
            "0020|0013": str(number),
            "0018|0050": "1.0",
            "0020|0037": f"1\\0\\0\\0\\{cos:.8f}\\{sin:.8f}",
            "0020|0032": "\\".join(f"{value:.6f}" for value in place),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        if change is not None:
            change(number, tags)
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(VOXELS[:, :, number].T))
        image.SetSpacing((0.7, 0.8))
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(7 * number) % 11}{suffix}"))
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(image)
    return folder


def itk_series(folder: Path) -> Any:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_series_lies_where_itk_has_it_and_its_labels_too(tmp_path: Path, suffix: str) -> None:
    folder = write_series(tmp_path / "chest.v1", suffix=suffix)
    expected = itk_series(folder)
    (frame,) = read_frames(find_sources([str(folder)], VOLUME_SUFFIXES), read_volume)
    volume = frame.volume
    assert np.array_equal(volume.voxels, VOXELS)
    assert np.array_equal(volume.voxels, SimpleITK.GetArrayFromImage(expected).T)
    labels = (VOXELS > 500).astype(np.uint8)
    with NiftiWriter(tmp_path / "labels", ("background", "one"), as_source=True) as writer:
        writer.write(frame, LabelVolume(labels, volume.affine))
    written = SimpleITK.ReadImage(str(tmp_path / "labels" / "chest.v1.nii.gz"))
    theirs = nibabel.load(tmp_path / "labels" / "chest.v1.nii.gz")
    assert np.array_equal(np.asanyarray(theirs.dataobj), labels)
    for corner in itertools.product((0, 7), (0, 6), (0, COUNT - 1)):
        left, back, up = expected.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(written.TransformIndexToPhysicalPoint(corner), (left, back, up), atol=1e-3)
        np.testing.assert_allclose(theirs.affine @ [*corner, 1], (-left, -back, up, 1), atol=1e-3)
        assert written[corner] == labels[corner]


def test_what_a_series_says(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "chest")
    header = read_volume_header(folder)
    assert header.shape == (8, 7, COUNT)
    assert header.spacing == pytest.approx((0.7, 0.8, STEP), abs=1e-4)
    assert len(stored_files(folder)) == COUNT
    assert Frame(read_volume(folder), str(folder), folder, case="chest").name == "chest"


def test_values_are_rescaled_as_each_slice_says(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "pet")
    slopes = ["1 ", ".5", "2 ", "3 ", ".2", "4 "]
    for number, slope in enumerate(slopes):
        path = folder / f"{(7 * number) % 11}.dcm"
        content = path.read_bytes()
        element = b"\x28\x00\x53\x10\x02\x00\x00\x00"
        assert content.count(element + b"1 ") == 1
        path.write_bytes(content.replace(element + b"1 ", element + slope.encode()))
    found = read_volume(folder).voxels
    np.testing.assert_allclose(found, VOXELS * np.array([float(slope) for slope in slopes]), rtol=1e-5)


def tilt(number: int, tags: dict[str, str]) -> None:
    """A gantry that leans: slices are moved along a line that is not their normal."""
    x, y, z = (float(value) for value in tags["0020|0032"].split("\\"))
    tags["0020|0032"] = f"{x:.6f}\\{y + 0.5 * number:.6f}\\{z:.6f}"


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "tilted", tilt)
    volume = read_volume(folder)
    reader = SimpleITK.ImageFileReader()
    for number in range(COUNT):
        reader.SetFileName(str(folder / f"{(7 * number) % 11}.dcm"))
        left, back, up = reader.Execute().GetOrigin()
        np.testing.assert_allclose(volume.affine @ [0, 0, number, 1], (-left, -back, up, 1), atol=1e-3)
    with NiftiWriter(tmp_path / "labels", ("background", "one")) as writer:
        writer.write(
            Frame(volume, str(folder), folder, case="tilted"),
            LabelVolume(np.zeros(volume.shape, np.uint8), volume.affine),
        )
    theirs = nibabel.load(tmp_path / "labels" / "tilted.nii.gz")
    np.testing.assert_allclose(theirs.affine, volume.affine, atol=1e-4)
    # A qform cannot say this, and would lead other programs astray.
    assert int(theirs.header["qform_code"]) == 0


def gap(number: int, tags: dict[str, str]) -> None:
    x, y, z = (float(value) for value in tags["0020|0032"].split("\\"))
    tags["0020|0032"] = f"{x}\\{y}\\{z + (5 if number > 2 else 0)}"


def two_series(number: int, tags: dict[str, str]) -> None:
    tags["0020|000e"] = f"1.2.3.{number % 2}"


def same_place(number: int, tags: dict[str, str]) -> None:
    if number == 3:
        tags["0020|0032"] = "10\\20\\30"


def scout(number: int, tags: dict[str, str]) -> None:
    if number == 0:
        tags["0020|0037"] = "0\\1\\0\\0\\0\\-1"


@pytest.mark.parametrize(
    ("change", "count", "message"),
    [
        (gap, COUNT, r"its slices are not equally far apart: 2\.5 mm mostly, but 7\.\d+ mm between 3\.dcm and 10\.dcm"),
        (
            two_series,
            COUNT,
            r"2 series are in it, of 3, 3 files; put each into a folder of its own, and leave out scouts",
        ),
        (same_place, COUNT, "lie at the same place; several times or echoes"),
        (scout, COUNT, "lies in another plane"),
        (None, 1, "one slice, a volume needs several"),
    ],
)
def test_series_that_are_no_volume(tmp_path: Path, change: Change | None, count: int, message: str) -> None:
    folder = write_series(tmp_path / "series", change, count=count)
    for read in (read_volume_header, read_volume):
        with pytest.raises(VolumeError, match=rf"series: .*{message}"):
            read(folder)


def test_a_truncated_slice_is_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    file = folder / "3.dcm"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(VolumeError, match="series: "):
        read_volume(folder)


def test_a_folder_without_slices(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="there are no DICOM files in it"):
        read_volume_header(tmp_path)


def test_folders_in_which_series_are_looked_for_in_vain(tmp_path: Path) -> None:
    write_series(tmp_path / "cases" / "one" / "series", count=1)
    with pytest.raises(SourceError, match=r"no volume in it .*; one/series is a DICOM series, but lies in a folder in"):
        find_sources([str(tmp_path / "cases")], VOLUME_SUFFIXES)
    assert len(find_sources([str(tmp_path / "cases" / "*" / "*")], VOLUME_SUFFIXES)) == 1
    (bare := tmp_path / "bare" / "one").mkdir(parents=True)
    (file,) = (tmp_path / "cases" / "one" / "series").iterdir()
    (bare / "0.dcm").write_bytes(file.read_bytes()[132:])
    with pytest.raises(SourceError, match=r"no volume in it .*; one/0\.dcm has .* but lacks the word DICM at byte 128"):
        find_sources([str(tmp_path / "bare")], VOLUME_SUFFIXES)
    (other := tmp_path / "other").mkdir()
    (other / "a.mgz").touch()
    with pytest.raises(SourceError, match=r"no volume in it .*; it has a\.mgz"):
        find_sources([str(other)], VOLUME_SUFFIXES)


def test_a_series_has_one_channel(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    with pytest.raises(VolumeError, match="a DICOM series has one channel, 2 were expected"):
        read_volume(folder, 2)


def test_a_name_that_is_not_utf_8_is_refused_with_words(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    named = tmp_path / os.fsdecode(b"series_\xe4")
    folder.rename(named)
    with pytest.raises(VolumeError, match="is not UTF-8, which GDCM needs: rename it"):
        read_volume(named)
