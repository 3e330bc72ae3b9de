"""Labels of a DICOM series as a DICOM segmentation (DICOM PS3.3 A.51), through highdicom: viewers and archives show
it on the slices it was made of, which it names one by one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import ByteArray, DoubleArray
from detseg.files import atomic_path
from detseg.runtime.volumes.dicom import series_files
from detseg.runtime.volumes.nifti_header import VolumeError

_LONGEST_NAME = 64
"""Characters of what DICOM calls a long string, the type of a segment's label (PS3.5, section 6.2)."""
_SCHEME = "99DETSEG"
"""Codes that begin so are a program's own: what a class means in a vocabulary of medicine, its name does not say."""
_SERIES_NUMBER = 1000


def require_highdicom() -> Any:
    """The package highdicom. Raises ValueError: it is not installed."""
    try:
        return importlib.import_module("highdicom")
    except ModuleNotFoundError as error:
        raise ValueError("DICOM segmentations need the extra `medical-io`: pip install 'detseg[medical-io]'") from error


def require_segment_names(class_names: Sequence[str]) -> None:
    """Raise ValueError where a class but the background has a name that no segment can have."""
    for name in class_names[1:]:
        if len(name) > _LONGEST_NAME or "\\" in name or not name.isprintable():
            raise ValueError(
                f"class {name!r:.200}: the name of a segment in DICOM has up to {_LONGEST_NAME} printable characters "
                "and no backslash; rename the class, or save nifti"
            )


def write_dicom_segmentation(
    path: Path, labels: ByteArray, affine: DoubleArray, folder: Path, class_names: Sequence[str], version: str
) -> None:
    """Write ``labels`` ``[X, Y, Z]`` on the grid ``affine`` ``[4, 4]`` of the series in ``folder``, class positions
    that begin with the background, to ``path``, whole or not at all. Every other class is a segment of its own; slices
    without any are left out.

    Raises:
        ValueError: the slices lack what a segmentation says of them, or lie in one file.
        VolumeError: the series cannot be read, or has other voxels.
        SaveError: the file cannot be written.
    """
    highdicom, pydicom = require_highdicom(), importlib.import_module("pydicom")
    files = series_files(folder)
    if len(files) == 1:
        raise ValueError(f"{folder}: all slices lie in one file; segmentations are written of one file for each: nifti")
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    shape = (slices[0].Columns, slices[0].Rows, len(slices))
    if labels.shape != shape:
        raise VolumeError(f"{folder}: the labels have {labels.shape} voxels, the series has {shape}")
    _say_distances(slices, affine)
    uid = highdicom.UID
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=np.ascontiguousarray(labels.T),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_segments(highdicom, class_names, version),
            series_instance_uid=uid(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=uid(),
            instance_number=1,
            manufacturer="detseg",
            manufacturer_model_name="detseg",
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
        )
    except (AttributeError, KeyError) as error:  # of pydicom, for an element that is not there
        raise ValueError(f"{folder}: its slices lack what a segmentation needs: {error}") from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _say_distances(slices: Sequence[Any], affine: DoubleArray) -> None:
    """Let ``slices`` say how far apart they are, which few do, and how thick: as thick, where they do not say."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    apart = float(abs(affine[:3, 2] @ normal) / np.linalg.norm(normal))
    for one in slices:
        one.SpacingBetweenSlices = f"{apart:.10g}"
        if not one.get("SliceThickness"):
            one.SliceThickness = one.SpacingBetweenSlices


def _segments(highdicom: Any, class_names: Sequence[str], version: str) -> list[Any]:
    codes = importlib.import_module("pydicom.sr.codedict").codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="detseg", version=version, family=codes.DCM.ArtificialIntelligence
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=highdicom.sr.CodedConcept(f"CLASS-{number}", _SCHEME, name),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(class_names[1:], 1)
    ]
