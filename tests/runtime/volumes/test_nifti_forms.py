"""Labels lie on their scan in every program: what nibabel and SimpleITK make of the headers of both."""

from __future__ import annotations

import gzip
import itertools
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.given import items_of
from detseg.runtime.volumes.nifti import read_label_values, read_volume, read_volume_header, write_label_volume
from detseg.runtime.writers.volumes import NiftiWriter
from detseg.volumes import LabelVolume, Volume

SHAPE = (4, 5, 6)
LABELS = np.arange(120, dtype=np.uint8).reshape(SHAPE) % 3
SPACING = np.array([0.7, 0.9, 2.5])


def turned(degrees: float, axis: int = 2) -> np.ndarray:
    angle, matrix = np.deg2rad(degrees), np.eye(3)
    one, other = [place for place in range(3) if place != axis]
    matrix[[one, one, other, other], [one, other, one, other]] = [
        np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
    ]  # fmt: skip
    return matrix


DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([-1.0, 1.0, 1.0]),
    "oblique": turned(17) @ turned(31, axis=0),
    "oblique left-handed": turned(17) @ turned(31, axis=1) @ np.diag([1.0, 1.0, -1.0]),
    "other order": np.eye(3)[[2, 0, 1]],
}
OTHERS = {"same": (np.eye(3), 1.0), "turned": (np.diag([-1.0, -1.0, 1.0]), 1.0), "larger": (np.eye(3), 1.5)}


def affine_with(directions: Any, spacing: Any = SPACING) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = 12.5, -7.25, 33
    return affine


def make_scan(
    path: Path, direction: str, codes: tuple[int, int], other: str = "same", kind: Any = nibabel.Nifti1Image,
    units: str = "mm", pixdim: Any = None,
) -> Path:  # fmt: skip
    change, factor = OTHERS[other]
    image = kind(np.random.default_rng(0).random(SHAPE).astype(np.float32), None)
    image.header.set_qform(affine_with(change @ DIRECTIONS[direction], factor * SPACING), code=codes[0])
    image.header.set_sform(affine_with(DIRECTIONS[direction]), code=codes[1])
    image.header.set_xyzt_units(units, "sec")
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    nibabel.save(image, path)
    return path


def assert_same_places(scan: Path, labels: Path) -> None:
    """For nibabel and for ITK every voxel of the labels lies where that of the scan does, and both headers say so in
    the same words."""
    ours, theirs = nibabel.load(labels), nibabel.load(scan)
    assert np.array_equal(ours.affine, theirs.affine)
    assert np.array_equal(np.asanyarray(ours.dataobj), LABELS)
    for name in ("pixdim", "xyzt_units", "qform_code", "sform_code", "qoffset_x", "quatern_d", "srow_x", "srow_z"):
        assert np.array_equal(ours.header[name], theirs.header[name]), name
    assert type(ours) is type(theirs)
    try:
        expected = SimpleITK.ReadImage(str(scan))
    except RuntimeError:
        with pytest.raises(RuntimeError):
            SimpleITK.ReadImage(str(labels))
        return
    image = SimpleITK.ReadImage(str(labels))
    for corner in itertools.product(*((0, side - 1) for side in SHAPE)):
        place = image.TransformIndexToPhysicalPoint(corner)
        assert place == expected.TransformIndexToPhysicalPoint(corner)
        assert image[corner] == LABELS[corner]


def write_labels(scan: Path, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = read_volume(scan)
    with NiftiWriter(folder / "labels", ("background", "one", "two")) as writer:
        writer.write(Frame(volume, str(scan), scan), LabelVolume(LABELS, volume.affine))
    (path,) = (folder / "labels").iterdir()
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("codes", list(itertools.product((0, 1, 2, 4), repeat=2)))
def test_labels_lie_where_the_scan_does(tmp_path: Path, codes: tuple[int, int], direction: str, kind: Any) -> None:
    scan = make_scan(tmp_path / "scan.nii", direction, codes, kind=kind)
    labels = write_labels(scan, tmp_path)
    assert_same_places(scan, labels)
    assert np.array_equal(read_label_values(labels)[1], read_volume_header(scan).affine)
    assert len(read_volume_header(scan).doubts) == (codes == (0, 0))


@pytest.mark.parametrize("units", ["mm", "micron", "meter", "unknown"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("codes", [(0, 0), (1, 1), (2, 1), (1, 4), (0, 2), (1, 0)])
def test_forms_that_disagree_and_other_units(tmp_path: Path, codes: tuple[int, int], other: str, units: str) -> None:
    scan = make_scan(tmp_path / "scan.nii.gz", "oblique left-handed", codes, other, units=units)
    assert_same_places(scan, write_labels(scan, tmp_path))


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (0.7, 0.9, 5), (-0.7, 0.9, 2.5), (0, 0, 0)])
@pytest.mark.parametrize("codes", [(0, 1), (1, 2), (0, 4)])
def test_pixdim_that_disagrees(tmp_path: Path, codes: tuple[int, int], pixdim: tuple[float, ...]) -> None:
    scan = make_scan(tmp_path / "scan.nii", "flipped", codes, pixdim=pixdim)
    assert_same_places(scan, write_labels(scan, tmp_path))


@pytest.mark.parametrize(
    ("units", "length"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1.0), ("unknown", 1.0)]
)  # as ITK has it
def test_lengths_are_converted_as_itk_does(tmp_path: Path, units: str, length: float) -> None:
    scan = make_scan(tmp_path / "scan.nii", "oblique", (1, 1), units=units)
    header = read_volume_header(scan)
    np.testing.assert_allclose(header.affine[:3], affine_with(DIRECTIONS["oblique"])[:3] * length, rtol=1e-5)
    np.testing.assert_allclose(SimpleITK.ReadImage(str(scan)).GetSpacing(), header.spacing, rtol=1e-5)
    assert ["converted to millimeters" in doubt for doubt in header.doubts] == [True] * (length != 1)


SAID = [
    # codes, the qform beside the sform, pixdim, what is said
    ((0, 0), "same", None, ["no orientation: qform_code and sform_code are 0; the spacing alone is used"]),
    ((1, 1), "same", None, []),
    ((0, 2), "turned", None, []),
    ((1, 0), "turned", None, []),
    ((1, 1), "turned", None, [r"qform and the sform in the header disagree by up to .* mm; the sform is used"]),
    (
        (1, 4), "larger", None,
        [
            r"pixdim and the sform in the header disagree: 1.05x1.35x3.75 mm and 0.7x0.9x2.5 mm; the sform is used",
            "qform and the sform in the header disagree",
        ],
    ),
    ((0, 1), "same", (0.7, 0.9, 1.0), ["pixdim and the sform in the header disagree: 0.7x0.9x1 mm"]),
    ((0, 1), "same", (0.7, 0.9, 2.55), []),
    ((0, 1), "same", (np.nan, 0.9, 2.5), ["pixdim and the sform in the header disagree: nanx0.9x2.5 mm"]),
    ((1, 1), "same", (-0.7, 0.9, 2.5), ["pixdim in the header has negative spacings"]),
]  # fmt: skip


@pytest.mark.parametrize(("codes", "other", "pixdim", "said"), SAID)
def test_what_is_said_of_a_header(tmp_path: Path, codes: Any, other: str, pixdim: Any, said: list[str]) -> None:
    scan = make_scan(tmp_path / "scan.nii", "straight", codes, other, pixdim=pixdim)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_volume(scan)
        read_volume(scan, quiet=True)
    assert len(caught) == len(said)
    for warning, words in zip(caught, said, strict=True):
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(warning.message)
        assert str(warning.message).startswith(f"{scan}: ")


def test_a_sheared_affine_is_written_as_sform_alone(tmp_path: Path) -> None:
    affine = affine_with(np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1.0]]))
    write_label_volume(tmp_path / "labels.nii", LabelVolume(LABELS, affine))
    header = nibabel.load(tmp_path / "labels.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-6)


def test_volumes_of_nibabel_carry_their_forms_and_others_the_affine(tmp_path: Path) -> None:
    scan = make_scan(tmp_path / "scan.nii", "oblique", (0, 0))
    loaded = nibabel.load(scan)
    (volume,) = items_of(loaded, volumes=True)
    assert isinstance(volume, Volume)
    write_label_volume(tmp_path / "labels.nii", LabelVolume(LABELS, volume.affine), volume.forms)
    assert_same_places(scan, tmp_path / "labels.nii")
    moved = nibabel.Nifti1Image(loaded.dataobj, affine_with(DIRECTIONS["flipped"]), loaded.header)
    moved.header.set_sform(np.eye(4), code=1)
    (volume,) = items_of(moved, volumes=True)
    assert isinstance(volume, Volume)
    assert volume.forms is None
    (volume,) = items_of(SimpleITK.ReadImage(str(make_scan(tmp_path / "b.nii", "oblique", (1, 1)))), volumes=True)
    assert isinstance(volume, Volume)
    write_label_volume(tmp_path / "b_labels.nii", LabelVolume(LABELS, volume.affine), volume.forms)
    np.testing.assert_allclose(
        SimpleITK.ReadImage(str(tmp_path / "b_labels.nii")).GetDirection(),
        SimpleITK.ReadImage(str(tmp_path / "b.nii")).GetDirection(),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("pixdim", "num_doubts"),
    [((0.0, 0.7, 0.9, 2.5), 0), ((1.0, 0.7, -0.9, 2.5), 1), ((-3.0, 0.7, 0.9, 2.5), 0)],
)
def test_a_pixdim_that_the_standard_mends(tmp_path: Path, pixdim: tuple[float, ...], num_doubts: int) -> None:
    """Of a qform: a handedness other than 1 and -1 is 1, spacings have no sign. Labels keep what the scan says."""
    scan = make_scan(tmp_path / "scan.nii", "oblique", (1, 0))
    expected = read_volume_header(scan).affine
    raw = bytearray(scan.read_bytes())
    raw[76:92] = np.array(pixdim, "<f4").tobytes()
    given = np.frombuffer(scan.read_bytes(), "<f4", 4, 76)
    raw[80:92] = (given[1:] * np.sign(pixdim[1:])).astype("<f4").tobytes()
    scan.write_bytes(raw)
    header = read_volume_header(scan)
    np.testing.assert_array_equal(header.affine, expected)
    assert len(header.doubts) == num_doubts
    labels = write_labels(scan, tmp_path)
    assert gzip.decompress(labels.read_bytes())[76:92] == raw[76:92]
