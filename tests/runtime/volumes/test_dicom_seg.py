"""DICOM segmentations, as pydicom and highdicom read them: every voxel lies on the pixel that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from detseg.arrays import ByteArray
from detseg.runtime.sources.frames import Frame
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import read_volume
from detseg.runtime.writers.volumes import DicomSegmentationWriter
from detseg.volumes import LabelVolume

NAMES = ("background", "Leber", "tumor: größer", "never found")
COUNT = 5
PIXELS = np.random.default_rng(0).integers(0, 1000, (COUNT, 7, 8)).astype(np.int16)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIENTATIONS = {
    "straight": STRAIGHT,
    "upside down": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "oblique": (0.936293, 0.275096, -0.218351, -0.289629, 0.956425, -0.036957),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
}


def labels_of(values: Any) -> ByteArray:
    """Classes by intensity alone, so that what a slice should show is known from its own pixels."""
    return (np.asarray(values) > 500).astype(np.uint8) + (np.asarray(values) > 800)


def write_series(folder: Path, orientation: tuple[float, ...], is_reversed: bool) -> list[pydicom.Dataset]:
    """Slices at equal distances along their normal, numbered and named against it where ``is_reversed``."""
    folder.mkdir()
    rows, columns = np.array(orientation).reshape(2, 3)
    normal = np.cross(rows, columns)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, pixels in enumerate(PIXELS):
        place = np.array([-12.5, 7.25, 30.0]) + 2.5 * number * normal
        tags = {
            "0008|0060": "CT",
            "0010|0020": "patient 1",
            "0020|000d": "1.2.826.0.1.3680043.8.498.1",
            "0020|000e": "1.2.826.0.1.3680043.8.498.2",
            "0020|0052": "1.2.826.0.1.3680043.8.498.3",
            "0008|0018": f"1.2.826.0.1.3680043.8.498.4.{number + 1}",
            "0020|0013": str(COUNT - number if is_reversed else number + 1),
            "0020|0037": "\\".join(f"{value:.6f}" for value in orientation),
            "0020|0032": "\\".join(f"{value:.6f}" for value in place),
        }
        image = SimpleITK.GetImageFromArray(pixels)
        image.SetSpacing((0.7, 0.8))
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{COUNT - number if is_reversed else number}.dcm"))
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(image)
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def write_labels(folder: Path, output: Path) -> Path:
    volume = read_volume(folder)
    with DicomSegmentationWriter(output, NAMES) as writer:
        found = LabelVolume(labels_of(volume.voxels), volume.affine)
        writer.write(Frame(volume, str(folder), folder, case="chest"), found)
    return output / "chest.dcm"


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_lies_on_the_pixel_it_was_made_of(tmp_path: Path, orientation: str, is_reversed: bool) -> None:
    slices = write_series(tmp_path / "series", ORIENTATIONS[orientation], is_reversed)
    found = highdicom.seg.segread(write_labels(tmp_path / "series", tmp_path / "out"))
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == slices[0][name].value
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} == {
        one.SOPInstanceUID for one in slices
    }
    (measures,) = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert [measures.SpacingBetweenSlices, *measures.PixelSpacing] == pytest.approx([2.5, 0.8, 0.7], abs=1e-4)
    assert [found.get_segment_description(number).segment_label for number in found.segment_numbers] == list(NAMES[1:])
    # Frame by frame, as the standard has it, without what either library makes of it.
    masks = {one.SOPInstanceUID: np.zeros((7, 8), np.uint8) for one in slices}
    slice_of = {one.SOPInstanceUID: one for one in slices}
    for frame, pixels in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, slice_of[source].ImagePositionPatient, atol=1e-4)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert not masks[source][pixels > 0].any()
        masks[source][pixels > 0] = number
    for uid, mask in masks.items():
        np.testing.assert_array_equal(mask, labels_of(slice_of[uid].pixel_array))
    # And as a reader has them who asks by the slices.
    uids = [one.SOPInstanceUID for one in slices]
    shown = found.get_pixels_by_source_instance(uids, combine_segments=True)
    np.testing.assert_array_equal(shown, np.stack([labels_of(one.pixel_array) for one in slices]))


def test_a_segmentation_is_no_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "series", STRAIGHT, is_reversed=False)
    path = write_labels(tmp_path / "series", tmp_path / "out")
    with pytest.raises(VolumeError, match=r"out: chest\.dcm is a DICOM segmentation, no scan: take it away"):
        read_volume(path.parent)


def test_what_cannot_be_a_segmentation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class 'a\\\\b': the name of a segment in DICOM has up to 64 printable"):
        DicomSegmentationWriter(tmp_path, ("background", "a\\b"))
    write_series(tmp_path / "series", STRAIGHT, is_reversed=False)
    volume = read_volume(tmp_path / "series")
    found = LabelVolume(labels_of(volume.voxels), volume.affine)
    with (
        DicomSegmentationWriter(tmp_path / "out", NAMES) as writer,
        pytest.raises(ValueError, match=r"a\.nii: no DICOM series, of which alone segmentations are made: save nifti"),
    ):
        writer.write(Frame(volume, "a.nii", tmp_path / "a.nii"), found)
