from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from detseg.runtime.volumes import nifti
from detseg.runtime.volumes.nifti import (
    read_label_values,
    read_volume,
    read_volume_header,
    write_label_volume,
    write_volume,
)
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import is_volume_path, volume_stem
from detseg.volumes import LabelVolume, Volume

AFFINE = np.array([[-2.0, 0.0, 0.1, 90.0], [0.0, 1.5, 0.0, -126.0], [0.1, 0.0, 3.0, -72.0], [0.0, 0.0, 0.0, 1.0]])
DIM, DATATYPE, VOX_OFFSET, SCL_SLOPE, XYZT_UNITS, QFORM_CODE, SROW_X, MAGIC = 40, 70, 108, 112, 123, 252, 280, 344
"""Where fields of a NIfTI-1 header begin, from the standard."""


def counting(shape: tuple[int, ...] = (3, 4, 5), dtype: Any = np.float32) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: Any, affine: Any = AFFINE, kind: Any = nibabel.Nifti1Image) -> Path:
    nibabel.save(kind(array, affine, dtype=array.dtype), path)
    return path


def patched(path: Path, *changes: tuple[int, bytes], size: int | None = None) -> Path:
    """The file with other bytes at some places, and cut or extended to ``size``."""
    data = bytearray(path.read_bytes())
    for place, content in changes:
        data[place : place + len(content)] = content
    path.write_bytes(data if size is None else bytes(data[:size]).ljust(size, b"\0"))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype",
    ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", ">i2", ">f4"],
)
def test_voxels_of_every_type_are_those_that_nibabel_reads(tmp_path: Path, dtype: str, suffix: str) -> None:
    array = counting(dtype=np.dtype(dtype).newbyteorder("=")) % 100
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(array.dtype)
    path = tmp_path / f"a{suffix}"
    nibabel.save(nibabel.Nifti1Image(array, AFFINE, header), path)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    values, affine = read_label_values(path)
    assert values.dtype == np.int64
    assert np.array_equal(values, array)
    assert np.array_equal(affine, volume.affine)
    header_only = read_volume_header(path)
    assert header_only.shape == (3, 4, 5)
    assert header_only.dtype == np.dtype(dtype).name
    assert header_only.spacing == pytest.approx((np.hypot(2, 0.1), 1.5, np.hypot(3, 0.1)), abs=1e-6)


def test_nifti_2_and_trailing_dimensions_of_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", counting((3, 4, 5, 1, 1)), kind=nibabel.Nifti2Image)
    assert np.array_equal(read_volume(path).voxels, counting())


def test_scale_and_offset_of_the_header_are_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", counting(dtype=np.int16))
    patched(path, (SCL_SLOPE, struct.pack("<ff", 0.5, -3.0)))
    assert np.array_equal(read_volume(path).voxels, counting() * 0.5 - 3)
    with pytest.raises(
        VolumeError,
        match=r"a label must be a whole number, but 30 of 60 voxels are not: -2\.5 at \(0, 0, 1\); what is "
        r"stored are int16 that the header scales by scl_slope 0\.5 and shifts by scl_inter -3: save labels as whole",
    ):
        read_label_values(path)
    for slope, intercept in ((2.0, 1.0), (3.0, 0.0), (1.0, 5.0)):
        patched(path, (SCL_SLOPE, struct.pack("<ff", slope, intercept)))
        assert np.array_equal(read_label_values(path)[0], counting(dtype=np.int64) * slope + intercept)
    # A slope of zero means that nothing is scaled or shifted, and so does one that is no number.
    for slope in (0.0, float("nan"), float("inf")):
        for intercept in (7.0, float("inf")):
            patched(path, (SCL_SLOPE, struct.pack("<ff", slope, intercept)))
            assert np.array_equal(read_volume(path).voxels, counting())


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_the_affine_is_the_sform_else_the_qform_else_the_spacing(tmp_path: Path, sform: int, qform: int) -> None:
    image = nibabel.Nifti1Image(counting(), np.diag([2.0, 3.0, 4.0, 1.0]))
    turned = np.array([[0, -3.0, 0, 7], [2.0, 0, 0, 8], [0, 0, 4.0, 9], [0, 0, 0, 1]])
    image.set_qform(turned, code=qform)
    image.set_sform(np.diag([5.0, 6.0, 7.0, 1.0]), code=sform)
    nibabel.save(image, tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").header.get_best_affine()
    np.testing.assert_allclose(read_volume_header(tmp_path / "a.nii").affine, expected, atol=1e-6)
    if sform:
        assert expected[0, 0] == 5
    elif qform:
        np.testing.assert_allclose(expected, turned, atol=1e-6)
    else:
        assert abs(expected[0, 0]) == 2


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_written_comes_back(tmp_path: Path, suffix: str) -> None:
    labels = LabelVolume(counting(dtype=np.uint8), AFFINE)
    write_label_volume(tmp_path / f"labels{suffix}", labels)
    values, affine = read_label_values(tmp_path / f"labels{suffix}")
    assert np.array_equal(values, labels.labels)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)
    image = nibabel.load(tmp_path / f"labels{suffix}")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_intent()[0] == "label"
    assert image.header["sform_code"] > 0
    assert image.header["qform_code"] > 0
    assert image.header.get_xyzt_units()[0] == "mm"

    volume = Volume(counting() / 7, AFFINE)
    write_volume(tmp_path / f"scan{suffix}", volume)
    assert np.array_equal(read_volume(tmp_path / f"scan{suffix}").voxels, volume.voxels)
    if suffix == ".nii.gz":
        assert (tmp_path / f"scan{suffix}").read_bytes()[4:8] == bytes(4), "no time stamp"
    write_volume(tmp_path / f"again{suffix}", volume)
    assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"scan{suffix}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}{suffix}" for name in ("labels", "scan", "again")}


def test_what_is_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    for length, header_size in ((32_767, 348), (32_768, 540)):
        labels = np.arange(length, dtype=np.int64).astype(np.uint8).reshape(1, 1, length)
        write_label_volume(tmp_path / "long.nii", LabelVolume(labels, AFFINE))
        assert int.from_bytes((tmp_path / "long.nii").read_bytes()[:4], "little") == header_size
        assert np.array_equal(read_label_values(tmp_path / "long.nii")[0], labels)


def test_a_label_is_never_wrapped_around(tmp_path: Path) -> None:
    array = np.array([1, 2**63 + 1], np.uint64).reshape(2, 1, 1)
    with pytest.raises(VolumeError, match="fit in 64 bits with a sign, got 9223372036854775809"):
        read_label_values(save(tmp_path / "a.nii", array))
    with pytest.raises(VolumeError, match=r"1 of 2 voxels are not: 1e\+30 at \(1, 0, 0\)"):
        read_label_values(save(tmp_path / "b.nii", np.array([1, 1e30]).reshape(2, 1, 1)))
    for value in (2**63 - 1, -(2**63)):
        path = save(tmp_path / "c.nii", np.full((1, 1, 1), value, np.int64))
        assert read_label_values(path)[0].item() == value


def test_only_names_of_volumes_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: the name of a volume ends in \.nii\.gz or \.nii"):
        write_label_volume(tmp_path / "a.png", LabelVolume(counting(dtype=np.uint8), AFFINE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "stem", "is_volume"),
    [
        ("a.nii", "a", True),
        ("x/b.NII.GZ", "b", True),
        ("c.d.nii.gz", "c.d", True),
        ("e.png", "e", False),
        ("f.tar.gz", "f.tar", False),
    ],
)
def test_names(name: str, stem: str, is_volume: bool) -> None:
    assert volume_stem(name) == stem
    assert is_volume_path(name) is is_volume


BAD_HEADERS: dict[str, tuple[list[tuple[int, bytes]], str]] = {
    "not NIfTI": ([(0, b"PNG!")], "no NIfTI file: it begins with b'PNG!'"),
    "magic": ([(MAGIC, b"abc\0")], "no NIfTI file: its magic word is b'abc'"),
    "pair": ([(MAGIC, b"ni1\0")], r"the voxels are in another file \(\.img\)"),
    "4-D": (
        [(DIM, struct.pack("<5h", 4, 3, 4, 5, 2))],
        r"4 dimensions \(3x4x5x2\), expected 3; split it into one file",
    ),
    "2-D": ([(DIM, struct.pack("<3h", 2, 12, 5))], r"2 dimensions \(12x5\), expected 3; a volume has 3"),
    "8 dimensions": ([(DIM, struct.pack("<h", 8))], "no possible shape: 8 dimensions"),
    "zero": ([(DIM, struct.pack("<4h", 3, 3, 0, 5))], "no possible shape: 3 dimensions"),
    "negative": ([(DIM, struct.pack("<4h", 3, 3, -4, 5))], "no possible shape"),
    "too large": (
        [(DIM, struct.pack("<4h", 3, 32767, 32767, 32767))],
        "32767x32767x32767 = 35,181,150,961,663 voxels, allowed are 1,073,741,824",
    ),
    "longer than the file": (
        [(DIM, struct.pack("<4h", 3, 1000, 1000, 500))],
        "1000x1000x500 voxels of float32 take 2000000352 bytes, the file of 592 bytes can hold 592",
    ),
    "one voxel too many": (
        [(DIM, struct.pack("<4h", 3, 1, 1, 61)), (VOX_OFFSET, struct.pack("<f", 352.0 + 600 * 1032))],
        "1x1x61 voxels of float32 take 619796 bytes, the file of 592 bytes",
    ),
    "meters": ([(XYZT_UNITS, b"\x01"), (SROW_X, struct.pack("<f", 11.0))], "the affine in the header is of no use"),
    "intercept": (
        [(SCL_SLOPE, struct.pack("<ff", 2.0, float("inf")))],
        "the intercept in the header is inf, which makes no voxel a number",
    ),
    "quaternion": (
        [(QFORM_CODE, struct.pack("<hhfff", 1, 0, 1.0, 1.0, 1.0))],
        "the orientation in the header is of no use",
    ),
    "type": ([(DATATYPE, struct.pack("<h", 3))], "unknown type of voxels, code 3"),
    "complex": ([(DATATYPE, struct.pack("<hh", 32, 64))], "voxels are complex64, expected whole or real numbers"),
    "128 bits": ([(DATATYPE, struct.pack("<hh", 1536, 128))], "expected whole or real numbers of up to 64 bits"),
    "color": ([(DATATYPE, struct.pack("<hh", 128, 24))], "expected one number each"),
    "offset": (
        [(VOX_OFFSET, struct.pack("<f", 100.0))],
        "the voxels cannot begin at byte 100, as the header takes 348",
    ),
    "offset between bytes": ([(VOX_OFFSET, struct.pack("<f", 352.5))], "the voxels cannot begin at byte 352.5"),
    "offset nan": ([(VOX_OFFSET, struct.pack("<f", float("nan")))], "the voxels cannot begin at byte nan"),
    "no extent": (
        [(SROW_X, struct.pack("<12f", 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))],
        "the affine in the header is of no use",
    ),
    "oblique until flat": (
        [(SROW_X, struct.pack("<12f", 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1.001, 0))],
        "the affine in the header is of no use",
    ),
    "flat": ([(SROW_X, struct.pack("<4f", 0, 1.5, 0, 0))], "the affine in the header is of no use"),
    "nan": ([(SROW_X, struct.pack("<f", float("nan")))], "the affine in the header is of no use"),
    "infinite": ([(SROW_X, struct.pack("<f", float("inf")))], "the affine in the header is of no use"),
    "kilometers": ([(SROW_X, struct.pack("<f", 1e6))], "the affine in the header is of no use"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", BAD_HEADERS)
def test_headers_that_cannot_be_true(tmp_path: Path, case: str, suffix: str) -> None:
    changes, message = BAD_HEADERS[case]
    path = patched(save(tmp_path / "a.nii", counting()), *changes)
    if suffix == ".nii.gz":
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
        message = message.partition("the file of")[0]
    for read in (read_volume_header, read_volume, read_label_values):
        with pytest.raises(VolumeError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [0, 3, 200, 400, 591])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files(tmp_path: Path, size: int, suffix: str) -> None:
    path = save(tmp_path / "a.nii", counting())
    assert path.stat().st_size == 592
    if suffix == ".nii":
        patched(path, size=size)
    else:
        whole = gzip.compress(path.read_bytes())
        path = tmp_path / "a.nii.gz"
        path.write_bytes(whole[: len(whole) * size // 592])
    with pytest.raises(VolumeError, match=r"truncated|no NIfTI file"):
        read_volume(path)


def test_a_compressed_header_that_lies_costs_no_memory(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", counting()), (DIM, struct.pack("<4h", 3, 1000, 1000, 1000)))
    # Enough noise behind the voxels that the bound of deflate alone does not give it away.
    noise = np.random.default_rng(0).bytes(4_200_000)
    (tmp_path / "lie.nii.gz").write_bytes(gzip.compress(path.read_bytes() + noise, compresslevel=1))
    tracemalloc.start()
    with pytest.raises(VolumeError, match="1000x1000x1000 voxels of float32 take 4000000000 bytes, there are 4200240"):
        read_volume(tmp_path / "lie.nii.gz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e7


def test_no_compressed_file_holds_more_than_deflate_can_pack(tmp_path: Path) -> None:
    whole, path = save(tmp_path / "a.nii", counting()), tmp_path / "a.nii.gz"
    size = 1000
    for ratio, message in ((1030, "there are 240"), (1034, "the file of 1000 bytes can hold 1032000")):
        patched(whole, (DIM, struct.pack("<4h", 3, 1, 10, size * ratio // 40)))
        # Zeros behind the end are padding to gzip.
        path.write_bytes(gzip.compress(whole.read_bytes()).ljust(size, b"\0"))
        with pytest.raises(VolumeError, match=message):
            read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_random_damage_gives_a_volume_or_a_volume_error(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(3)
    whole = save(tmp_path / "whole.nii", counting(dtype=np.int16)).read_bytes()
    path, read, refused = tmp_path / f"a{suffix}", 0, 0
    for _ in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, 352, 3):
            data[position] = rng.integers(256)
        packed = bytearray(gzip.compress(data, 1) if suffix == ".nii.gz" else data)
        if suffix == ".nii.gz" and rng.random() < 0.5:
            packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        path.write_bytes(packed)
        try:
            with np.errstate(all="raise"), warnings.catch_warnings():
                warnings.simplefilter("error")
                assert read_volume(path, quiet=True).voxels.size <= 60
            read += 1
        except VolumeError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 (either outcome is right)
            refused += 1
    assert min(read, refused) > 30


def test_a_flipped_bit_in_a_compressed_file_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(path)


def test_voxels_that_are_no_numbers(tmp_path: Path) -> None:
    array = counting()
    array[1, 2, 3], array[2, 0, 0] = np.nan, np.inf
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(VolumeError, match=r"2 of 60 voxels are NaN or infinite in float32, the first at \(1, 2, 3\)"):
        read_volume(path)
    with pytest.raises(VolumeError, match=r"2 of 60 voxels are not: nan at \(1, 2, 3\)"):
        read_label_values(path)
    path = save(tmp_path / "b.nii", counting(dtype=np.float64) * 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(VolumeError, match="59 of 60 voxels are NaN or infinite in float32"):
            read_volume(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.nii.gz", tmp_path):
        with pytest.raises(VolumeError, match="cannot be read"):
            read_volume(path)


def test_real_volumes(detseg_data: Path) -> None:
    for path in sorted((detseg_data / "hippocampus" / "imagesTr").iterdir())[:10]:
        volume = read_volume(path)
        image = nibabel.load(path)
        assert np.array_equal(volume.voxels, image.get_fdata(dtype=np.float32))
        assert np.array_equal(volume.affine, image.affine)


@pytest.mark.parametrize("error", [1e-7, -1.5e-5, 9e-4])
def test_labels_that_are_nearly_whole_are_rounded(tmp_path: Path, error: float) -> None:
    """As programs store them that scale every volume to 16 bits."""
    values = np.arange(60, dtype=np.float64).reshape(3, 4, 5)
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(values + error, np.eye(4)), path)
    assert (read_label_values(path)[0] == values).all()
    nibabel.save(nibabel.Nifti1Image(values + 0.01, np.eye(4)), path)
    with pytest.raises(VolumeError, match="a label must be a whole number, but 60 of 60"):
        read_label_values(path)


def test_labels_that_the_header_scales(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float64).reshape(3, 4, 5)
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    assert (read_label_values(tmp_path / "a.nii")[0] == values).all()


@pytest.mark.parametrize(("shift", "disagrees"), [(0.0, False), (0.4, False), (3.0, True)])
def test_two_orientations_that_disagree(tmp_path: Path, shift: float, disagrees: bool) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = shift
    image.set_qform(moved, code=1)
    image.set_sform(np.eye(4), code=1)
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (read_volume(path).affine == np.eye(4)).all()
        read_volume(path, quiet=True)
    assert [f"disagree by up to {shift:g} mm" in str(one.message) for one in caught] == ([True] if disagrees else [])
    image.set_qform(moved, code=0)
    nibabel.save(image, path)
    assert read_volume_header(path).doubts == ()


def test_a_stream_is_read_to_its_end(tmp_path: Path) -> None:
    """Its checksum and its length stand behind what other programs wrote after the voxels, too."""
    plain = save(tmp_path / "a.nii", counting()).read_bytes() + b"more" * 1000
    packed = bytearray(gzip.compress(plain))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed)
    assert np.array_equal(read_volume(path).voxels, counting())
    for position in (-8, -5, -4, -1):
        damaged = packed.copy()
        damaged[position] ^= 1
        path.write_bytes(damaged)
        for read in (read_volume, read_label_values):
            with pytest.raises(VolumeError, match=r"a\.nii\.gz: damaged or truncated after \d+ bytes"):
                read(path)


def test_what_is_behind_the_voxels_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = save(tmp_path / "a.nii", counting()).read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain + bytes(3_000_000)))
    monkeypatch.setattr(nifti, "_MOST_BEHIND_VOXELS", 2_000_000)
    with pytest.raises(VolumeError, match="more than 2,000,000 bytes behind its voxels"):
        read_volume(path)


def test_memory_is_estimated_before_voxels_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((100, 100, 100), np.uint8))
    for read, needed in ((read_volume, 4_000_000), (read_label_values, 41_000_000)):
        monkeypatch.setattr(nifti, "usable_memory", lambda needed=needed: 2 * needed)
        read(path)
        monkeypatch.setattr(nifti, "usable_memory", lambda needed=needed: 2 * needed - 2)
        with pytest.raises(VolumeError, match=r"a\.nii\.gz: its 100x100x100 voxels would take some 0\.0 GB of memory"):
            read(path)
    assert read_volume_header(path).shape == (100, 100, 100)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(VolumeError, match=r"a\.nii: cannot be read: not a regular file"):
        read_volume(tmp_path / "a.nii")


def test_what_is_no_part_of_the_compressed_file_is_passed_over(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", counting()).read_bytes()
    expected = read_volume(tmp_path / "a.nii").voxels
    path = tmp_path / "a.nii.gz"
    for data in (
        gzip.compress(plain) + b"not compressed",
        gzip.compress(plain) + bytes(600),
        gzip.compress(plain[:400]) + gzip.compress(plain[400:]),
    ):
        path.write_bytes(data)
        assert np.array_equal(read_volume(path).voxels, expected)
    # A second part that is cut off, or damaged, is a fault all the same.
    path.write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:])[:-3])
    with pytest.raises(VolumeError, match="damaged or truncated"):
        read_volume(path)


def test_files_of_a_pair_under_the_wrong_name(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(counting(), np.eye(4)), tmp_path / "a.img")
    with pytest.raises(VolumeError, match=r"a\.img: no NIfTI file: .*: name its header, a\.hdr$"):
        read_volume(tmp_path / "a.img")
    (tmp_path / "a.img").rename(tmp_path / "b.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "b.img")
    with pytest.raises(VolumeError, match=r"b\.hdr: no NIfTI file: .*; but b\.img does: the two files have each other"):
        read_volume(tmp_path / "b.hdr")


def test_colors_are_no_intensities(tmp_path: Path) -> None:
    colors = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colors, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match=r"voxels are colors \(R\+G\+B\), expected one number each"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (gzip.compress(gzip.compress(bytes(600))), "it is compressed twice: decompress it once"),
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a page for browsers"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_what_is_no_volume_in_spite_of_its_name(tmp_path: Path, content: bytes, advice: str) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError, match=f"a.nii.gz: no NIfTI file: .*{advice}"):
        read_volume_header(tmp_path / "a.nii.gz")
