"""MetaImage and NRRD: voxels lie where SimpleITK has them, labels written as NIfTI lie there for nibabel too, and what
is damaged is refused."""

from __future__ import annotations

import gzip
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg.runtime.sources.frames import Frame
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import (
    read_label_values,
    read_volume,
    read_volume_header,
    stored_files,
    volume_stem,
)
from detseg.runtime.writers.volumes import NiftiWriter
from detseg.volumes import LabelVolume, Volume

SHAPE = (4, 5, 6)
SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
VOXELS = np.random.default_rng(0).integers(-900, 2000, SHAPE).astype(np.int16)
LABELS = np.arange(120, dtype=np.uint8).reshape(SHAPE) % 3
NAMES = ("background", "one", "two")


def turned(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "other order": np.eye(3)[[2, 0, 1]],
    "oblique": turned(0.3),
}


def save(path: Path, array: Any = VOXELS, direction: str = "oblique", compressed: bool = True, **options: Any) -> Path:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T), **options)
    if image.GetDimension() == 3:
        image.SetDirection(DIRECTIONS[direction].ravel().tolist())
        image.SetSpacing((0.7, 0.9, 2.5))
        image.SetOrigin((12.5, -7.25, 33.0))
    SimpleITK.WriteImage(image, str(path), compressed)
    return path


def assert_where_itk_has_them(affine: np.ndarray, image: Any) -> None:
    for corner in itertools.product(*((0, side - 1) for side in SHAPE)):
        left, back, up = image.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(affine @ [*corner, 1], (-left, -back, up, 1), atol=1e-4)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_and_their_labels_lie_where_itk_has_them(
    tmp_path: Path, suffix: str, direction: str, compressed: bool
) -> None:
    path = save(tmp_path / f"scan.v1{suffix}", direction=direction, compressed=compressed)
    image = SimpleITK.ReadImage(str(path))
    header, volume = read_volume_header(path), read_volume(path)
    assert np.array_equal(volume.voxels, VOXELS)
    assert (header.shape, header.dtype, header.doubts) == (SHAPE, "int16", ())
    assert np.array_equal(header.affine, volume.affine)
    assert_where_itk_has_them(volume.affine, image)
    frame = Frame(volume, str(path), path)
    for as_source, name in ((False, "scan.v1.nii.gz"), (True, f"scan.v1{'.mha' if 'm' in suffix else '.nrrd'}")):
        folder = tmp_path / f"labels {as_source}"
        with NiftiWriter(folder, NAMES, as_source=as_source) as writer:
            writer.write(frame, LabelVolume(LABELS, volume.affine))
        assert [one.name for one in folder.iterdir()] == [name]
        labels = SimpleITK.ReadImage(str(folder / name))
        assert np.array_equal(SimpleITK.GetArrayFromImage(labels).T, LABELS)
        assert_where_itk_has_them(volume.affine, labels)
        values, affine = read_label_values(folder / name)
        assert np.array_equal(values, LABELS)
        np.testing.assert_allclose(affine, volume.affine, atol=1e-4)
    theirs = nibabel.load(tmp_path / "labels False" / "scan.v1.nii.gz")
    assert np.array_equal(np.asanyarray(theirs.dataobj), LABELS)
    np.testing.assert_allclose(theirs.affine, volume.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("form", ["vector", "4-D"])
def test_several_channels_in_one_file(tmp_path: Path, form: str, suffix: str) -> None:
    channels = np.stack([VOXELS, 2 * VOXELS, -VOXELS])
    if form == "vector":
        path = save(tmp_path / f"scan{suffix}", channels, isVector=True)
    else:
        path = save(tmp_path / f"scan{suffix}", np.moveaxis(channels, 0, -1), isVector=False)
    assert np.array_equal(read_volume(path, 3).voxels, channels)
    assert read_volume_header(path, 3).shape == SHAPE
    with pytest.raises(VolumeError, match=r"expected 3 dimensions and one channel"):
        read_volume_header(path)
    with pytest.raises(VolumeError, match=r"expected 3 dimensions and 2 channels"):
        read_volume_header(path, 2)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_labels_of_every_type(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = save(tmp_path / f"labels{suffix}", LABELS.astype(dtype))
    values, _ = read_label_values(path)
    assert values.dtype == np.int64
    assert np.array_equal(values, LABELS)
    assert read_volume_header(path).dtype == dtype


def test_labels_that_are_no_whole_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "labels.nrrd", LABELS + np.float32(0.25))
    with pytest.raises(VolumeError, match=r"labels\.nrrd: a label must be a whole number, but 120 of 120"):
        read_label_values(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = save(tmp_path / f"scan{suffix}", compressed=compressed)
    (*_, data) = stored_files(path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(VolumeError, match=r"truncated"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_no_flipped_bit_of_compressed_voxels_is_overlooked(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"scan{suffix}")
    content = path.read_bytes()
    begin = content.index(b"LOCAL\n") + 6 if suffix == ".mha" else content.index(b"\n\n") + 2
    refused = 0
    for number in range(100):
        damaged = bytearray(content)
        # Not within the first ten bytes: gzip's time stamp and system mean nothing.
        damaged[np.random.default_rng(number).integers(begin + 10, len(content))] ^= 1 << number % 8
        path.write_bytes(damaged)
        try:
            found = read_volume(path).voxels
        except VolumeError:
            refused += 1
        else:
            # Between the last code and the sum there are up to seven bits that mean nothing either.
            assert np.array_equal(found, VOXELS)
    assert refused > 95


HEADERS = {
    "list": ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = LIST", "is not one file in the same folder"),
    "pattern": ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = a%03d.raw 1 6 1", "is not one file"),
    "elsewhere": ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = ../a.raw", "is not one file"),
    "absolute": ("a.nhdr", b"data file: a.raw", b"data file: /a.raw", "is not one file"),
    "zero byte": ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = a\0.raw", "is not one file"),
    "missing": ("a.nhdr", b"data file: a.raw", b"data file: b.raw", r"its voxels are in b\.raw, which cannot be read"),
    "text": ("a.nhdr", b"encoding: raw", b"encoding: ascii", "save them as raw or gzip"),
    "bzip2": ("a.nhdr", b"encoding: raw", b"encoding: bzip2", "save them as raw or gzip"),
    "skip": ("a.nhdr", b"encoding: raw", b"encoding: raw\nbyte skip: -1", "byteskip '-1', which is not read"),
    "header size": ("a.mhd", b"BinaryData = True", b"BinaryData = True\nHeaderSize = -1", "headersize '-1'"),
    "lies": ("a.mhd", b"DimSize = 4 5 6", b"DimSize = 4 5 600", "truncated, or its header lies"),
    "huge": ("a.mhd", b"DimSize = 4 5 6", b"DimSize = 40000 50000 6", r"12,000,000,000 voxels, allowed are"),
    "flat": ("a.nhdr", b"sizes: 4 5 6", b"sizes: 4 5", "cannot be read by ITK"),
    "no meta image": ("a.mhd", b"NDims", b"\xff\x00NDims\n", "no MetaImage: its header has the line"),
    "no nrrd": ("a.nhdr", b"NRRD", b"MRRD", "no NRRD file: it begins with"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_is_of_no_use(tmp_path: Path, case: str) -> None:
    name, old, new, message = HEADERS[case]
    path = save(tmp_path / name, compressed=False)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(VolumeError, match=message):
        read_volume(path)


def test_a_header_without_orientation_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nhdr", direction="straight", compressed=False)
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("space")]
    path.write_text("\n".join([*kept[:-1], "spacings: 0.7 0.9 2.5", kept[-1], ""]))
    with pytest.warns(UserWarning, match=r"a\.nhdr: no orientation in its header: its axes are taken to"):
        volume = read_volume(path)
    assert_where_itk_has_them(volume.affine, SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "doubt"),
    [
        (
            ".mhd",
            "ElementSpacing = 0.69999999999999996 0.90000000000000002 2.5\n",
            "",
            "no spacing in its header: its voxels are taken to be 1x1x1 mm",
        ),
        (".mhd", "ElementSpacing =", "ElementSize =", ""),
        (
            ".nhdr",
            "kinds:",
            'space units: "um" "um" "um"\nkinds:',
            "its lengths have the unit 'um', but count as millimeters",
        ),
        (".nhdr", "kinds:", 'space units: "mm" "mm" "mm"\nkinds:', ""),
    ],
)
def test_spacings_that_are_missing_or_in_another_unit_are_named(
    tmp_path: Path, suffix: str, old: str, new: str, doubt: str
) -> None:
    path = save(tmp_path / f"a{suffix}", compressed=False)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    header = read_volume_header(path)
    assert len(header.doubts) == bool(doubt)
    assert doubt in "".join(header.doubts)
    assert_where_itk_has_them(header.affine, SimpleITK.ReadImage(str(path)))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.mha")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ValueError, match=r"a\.mha: this format needs the extra `medical-io`: pip install 'detseg\["):
        read_volume(path)


def test_files_of_a_volume(tmp_path: Path) -> None:
    assert [one.name for one in stored_files(save(tmp_path / "a.b.mhd"))] == ["a.b.mhd", "a.b.zraw"]
    assert [one.name for one in stored_files(save(tmp_path / "a.mha"))] == ["a.mha"]
    assert volume_stem("x/a.b.nhdr") == "a.b"


@pytest.mark.parametrize("image_suffix", [".img", ".img.gz"])
def test_a_nifti_pair_is_what_nibabel_reads(tmp_path: Path, image_suffix: str) -> None:
    affine = np.diag([-0.7, 0.9, 2.5, 1])
    nibabel.save(nibabel.Nifti1Pair(VOXELS, affine), tmp_path / "a.hdr")
    if image_suffix == ".img.gz":
        content = (tmp_path / "a.img").read_bytes()
        (tmp_path / "a.img").unlink()
        (tmp_path / "a.img.gz").write_bytes(gzip.compress(content))
    volume = read_volume(tmp_path / "a.hdr")
    assert np.array_equal(volume.voxels, VOXELS)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.forms is not None
    assert [one.name for one in stored_files(tmp_path / "a.hdr")] == ["a.hdr", f"a{image_suffix}"]
    (tmp_path / f"a{image_suffix}").write_bytes((tmp_path / f"a{image_suffix}").read_bytes()[:-9])
    with pytest.raises(VolumeError, match=rf"a{image_suffix}: (truncated|damaged)"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / f"a{image_suffix}").unlink()
    with pytest.raises(VolumeError, match=r"a\.hdr: the voxels are in another file, and a\.img is not there"):
        read_volume_header(tmp_path / "a.hdr")


def test_analyze_is_named(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(VOXELS, None), tmp_path / "a.img")
    with pytest.raises(VolumeError, match=r"a\.hdr: no NIfTI file.*; it is Analyze 7\.5, which does not say left from"):
        read_volume(tmp_path / "a.hdr")


def test_a_volume_that_is_there_has_no_forms(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nrrd"))
    assert isinstance(volume, Volume)
    assert volume.forms is None


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_names_that_are_not_utf_8_are_read_and_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"scan_\xe4" + suffix.encode())
    save(tmp_path / f"scan{suffix}").rename(path)
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, VOXELS)
    with NiftiWriter(tmp_path / "labels", NAMES, as_source=True) as writer:
        writer.write(Frame(volume, str(path), path), LabelVolume(LABELS, volume.affine))
    assert [one.name for one in (tmp_path / "labels").iterdir()] == [path.name]
    assert np.array_equal(read_label_values(tmp_path / "labels" / path.name)[0], LABELS)
