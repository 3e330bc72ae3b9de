from __future__ import annotations

from pathlib import Path

import pytest

from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_cases import case_name, case_of, channel_files


def lay(folder: Path, names: str) -> None:
    for name in names.split():
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "file", "num_channels", "expected"),
    [
        ("scan_000_0000.nii.gz scan_001_0000.nii.gz", "scan_000_0000.nii.gz", 1, "scan_000"),
        ("a_0000.nii", "a_0000.nii", 1, "a"),
        ("a_0000.nii a_0001.nii", "a_0000.nii", 2, "a"),
        ("a_0000.nii", "a_0000.nii", 4, "a"),  # all channels in one file
        ("a.nii b_0000.nii", "a.nii", 1, "a"),
        # Scans that are counted: their numbers are all they have.
        ("a_0000.nii a_0001.nii a_0002.nii", "a_0000.nii", 1, "a_0000"),
        ("a_0000.nii a_0001.nii a_0002.nii", "a_0001.nii", 1, "a_0001"),
        ("a_0001.nii", "a_0001.nii", 1, "a_0001"),
        ("a_000.nii", "a_000.nii", 1, "a_000"),
        ("_0000.nii", "_0000.nii", 1, "_0000"),
        # Never two scans into one name.
        ("a_0000.nii.gz a.nii", "a_0000.nii.gz", 1, "a_0000"),
        ("a_0000.nii.gz a.nii", "a.nii", 1, "a"),
        ("a_0000.nii a_0000_0000.nii", "a_0000.nii", 1, "a"),
        ("a_0000.nii a_0000_0000.nii", "a_0000_0000.nii", 1, "a_0000_0000"),
        ("a_0000.nii a.png a_0001.txt ._a_0001.nii", "a_0000.nii", 1, "a"),
    ],
)
def test_the_number_of_the_channel_goes_where_it_is_one(
    tmp_path: Path, names: str, file: str, num_channels: int, expected: str
) -> None:
    lay(tmp_path, names)
    assert case_name(tmp_path / file, num_channels) == expected


def test_names_of_channels() -> None:
    assert case_of("x/BRATS_001_0003.nii.gz") == ("BRATS_001", 3)
    assert case_of("a.nii") is None


@pytest.mark.parametrize(
    ("names", "file", "num_channels", "expected"),
    [
        ("a_0000.nii a_0001.nii b_0000.nii", "a_0000.nii", 2, "a_0000.nii a_0001.nii"),
        ("a_0000.nii a_0001.nii.gz", "a_0000.nii", 2, "a_0000.nii a_0001.nii.gz"),
        ("a_0000.nii a_0001.nii", "a_0000.nii", 1, "a_0000.nii"),
        ("a.nii", "a.nii", 4, "a.nii"),
        ("a_0000.nii", "a_0000.nii", 4, "a_0000.nii"),
    ],
)
def test_the_files_of_channels(tmp_path: Path, names: str, file: str, num_channels: int, expected: str) -> None:
    lay(tmp_path, names)
    found = channel_files(tmp_path / file, num_channels)
    assert [path.name for path in found] == expected.split()


@pytest.mark.parametrize(
    ("names", "num_channels", "message"),
    [
        ("a_0000.nii a_0001.nii", 3, r"3 channels of the case a were expected, 2 are there: there is no a_0002\{"),
        ("a_0000.nii a_0002.nii", 3, r"2 are there: there is no a_0001\{\.nii\.gz,.*\} beside it"),
        ("a_0000.nii a_0001.nii a_0002.nii", 2, "2 channels of the case a were expected, 3 are there: there is a_0002"),
    ],
)
def test_channels_that_are_not_there(tmp_path: Path, names: str, num_channels: int, message: str) -> None:
    lay(tmp_path, names)
    with pytest.raises(VolumeError, match=message):
        channel_files(tmp_path / "a_0000.nii", num_channels)
