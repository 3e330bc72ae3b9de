from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from detseg.arrays import DoubleArray
from detseg.data.datasets.volumes import VolumeDataset, spacing_toward_ras, to_positions
from detseg.data.source import DatasetError
from detseg.runtime.volumes.nifti import write_label_volume, write_volume
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.volumes import LabelVolume, Volume, grid_distance_mm, grid_tolerance_mm

SHAPE = (4, 5, 6)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def write_pair(
    root: Path,
    name: str,
    labels: np.ndarray | None = None,
    *,
    label_affine: DoubleArray = AFFINE,
    affine: DoubleArray = AFFINE,
) -> None:
    """A scan of ramps, and labels that are 0 where not given."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    write_volume(root / "images" / name, Volume(voxels, affine))
    content = np.zeros(SHAPE, np.uint8) if labels is None else labels
    write_label_volume(root / "labels" / name, LabelVolume(content, label_affine))


def open_set(root: Path, *names: str, labeled: bool = True) -> VolumeDataset:
    return VolumeDataset(
        root=root,
        split="train",
        class_names=("background", "liver", "tumor"),
        category_ids=(0, 2, 9),
        images=[root / "images" / name for name in names],
        labels=[root / "labels" / name for name in names] if labeled else None,
    )


def test_what_a_split_knows(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, 0], labels[3, 4, 5] = 2, 9
    write_pair(tmp_path, "b.nii.gz", labels)
    write_pair(tmp_path, "a.nii")
    dataset = open_set(tmp_path, "b.nii.gz", "a.nii")
    assert len(dataset) == 2
    assert dataset.target == "volumes"
    assert dataset.num_dropped == 0
    assert dataset.home == dataset.root == tmp_path
    assert dataset.has_labels
    assert [dataset.image_id(index) for index in range(2)] == [1, 2]
    assert dataset.path(1) == str(tmp_path / "images/a.nii")
    assert dataset.label_path(0) == str(tmp_path / "labels/b.nii.gz")
    header = dataset.header(0)
    assert header.shape == SHAPE
    assert header.spacing == (2.0, 3.0, 4.0)
    volume, found = dataset.read(0)
    assert volume.voxels[0, 0, 1] == 1
    assert volume.voxels[1, 0, 0] == 30
    assert found is not None
    # 2 is the class in place 1, 9 the one in place 2.
    assert np.argwhere(found.labels == 1).tolist() == [[0, 0, 0]]
    assert np.argwhere(found.labels == 2).tolist() == [[3, 4, 5]]
    assert np.count_nonzero(found.labels) == 2
    assert np.array_equal(dataset.label_volume(0).labels, found.labels)
    assert np.array_equal(dataset.label_volume(0).affine, volume.affine)


def test_spacings_are_those_toward_right_front_and_top(tmp_path: Path) -> None:
    # The file's axes run toward the bottom (4 mm), the left (2 mm) and the front (3 mm).
    turned = np.array([[0, -2, 0, 5], [0, 0, 3, 6], [-4, 0, 0, 7], [0, 0, 0, 1.0]])
    write_pair(tmp_path, "a.nii")
    write_pair(tmp_path, "b.nii", affine=turned, label_affine=turned)
    assert spacing_toward_ras(turned) == (2.0, 3.0, 4.0)
    np.testing.assert_allclose(open_set(tmp_path, "a.nii", "b.nii").spacings(), [[2, 3, 4], [2, 3, 4]])
    assert open_set(tmp_path).spacings().shape == (0, 3)


@pytest.mark.parametrize("index", [-1, 1])
def test_a_volume_that_is_not_there(tmp_path: Path, index: int) -> None:
    write_pair(tmp_path, "a.nii")
    dataset = open_set(tmp_path, "a.nii")
    for method in (dataset.read, dataset.path, dataset.label_path, dataset.image_id, dataset.header):
        with pytest.raises(IndexError, match=f"volume {index} of 1"):
            method(index)


def test_a_split_without_labels(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.nii")
    dataset = open_set(tmp_path, "a.nii", labeled=False)
    assert not dataset.has_labels
    volume, labels = dataset.read(0)
    assert volume.voxels.shape == SHAPE
    assert labels is None
    with pytest.raises(DatasetError, match=r"the volumes of train have no labels.*; name another split") as caught:
        dataset.label_volume(0)
    assert str(tmp_path) in str(caught.value)
    assert "labels/a.nii" not in dataset.fingerprint(0)


def test_labels_of_another_shape(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.nii", np.zeros((4, 6, 5), np.uint8))
    dataset = open_set(tmp_path, "a.nii")
    for read in (dataset.read, dataset.label_volume):
        with pytest.raises(DatasetError, match=r"labels/a\.nii: 4x6x5 voxels, but the volume .*a\.nii has 4x5x6"):
            read(0)


@pytest.mark.parametrize(("shift", "allowed"), [(0.0005, True), (0.002, True), (0.03, False), (10.0, False)])
def test_labels_at_another_place(tmp_path: Path, shift: float, allowed: bool) -> None:
    moved = AFFINE.copy()
    moved[1, 3] += shift
    write_pair(tmp_path, "a.nii", label_affine=moved)
    dataset = open_set(tmp_path, "a.nii")
    for read in (dataset.read, dataset.label_volume):
        if allowed:
            read(0)
        else:
            message = rf"labels/a\.nii: its affine puts voxels up to {shift:.4g} mm away from those of the volume"
            with pytest.raises(DatasetError, match=message):
                read(0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (np.zeros((4, 4)), 0.0),
        (np.diag([0, 0, 0.1, 0]), 0.5),  # at the far end of an axis of 6 voxels
        (np.diag([0, 0, -0.1, 0]), 0.5),
        (np.array([[0, 0, 0, 3.0], [0, 0, 0, 4.0], [0, 0, 0, 0], [0, 0, 0, 0]]), 5.0),
        (np.array([[0.1, 0, 0, -0.15], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), 0.15),  # -0.15 to 0.15
    ],
)
def test_the_distance_of_grids_is_that_of_the_worst_corner(change: DoubleArray, expected: float) -> None:
    assert grid_distance_mm(AFFINE + change, AFFINE, SHAPE) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.0), (0.35, 0.35, 0.6), (3.0, 0.8, 0.8)])
@pytest.mark.parametrize("decimals", [4, 5])
def test_an_affine_rounded_to_four_decimals_is_the_same_grid(
    spacing: tuple[float, float, float], decimals: int
) -> None:
    shape, turned = (512, 512, 120), oblique(spacing)
    apart = grid_distance_mm(turned.round(decimals), turned, shape)
    assert apart <= grid_tolerance_mm(turned, shape)


@pytest.mark.parametrize("change", ["voxel", "spacing", "turned"])
def test_grids_that_are_not_the_same_stay_apart(change: str) -> None:
    shape, affine = (512, 512, 120), oblique((0.7, 0.7, 1.0))
    other = affine.copy()
    if change == "voxel":
        other[:3, 3] += affine[:3, 0] / 2
    elif change == "spacing":
        other[:3, :3] *= 1.001
    else:
        other = oblique((0.7, 0.7, 1.0), 0.4005)
    assert grid_distance_mm(other, affine, shape) > grid_tolerance_mm(affine, shape)


def oblique(spacing: tuple[float, float, float], angle: float = 0.4) -> DoubleArray:
    """An affine turned by ``angle`` about two axes."""
    cos, sin = np.cos(angle), np.sin(angle)
    turns = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    affine = np.eye(4)
    affine[:3, :3] = turns * np.array(spacing)
    affine[:3, 3] = (-181.13579, 203.98123, -611.57931)
    return affine


def test_a_value_that_is_no_class(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2, 3:5] = 7
    labels[1, 2, 5] = labels[3, 0, 0] = 1
    labels[2, 2, 2] = 9
    write_pair(tmp_path, "a.nii.gz", labels)
    with pytest.raises(DatasetError) as caught:
        open_set(tmp_path, "a.nii.gz").read(0)
    assert str(caught.value) == (
        f"{tmp_path}/labels/a.nii.gz: the value 7 in 2 voxels, the first at (1, 2, 3), is no class (others: 1); "
        "allowed are 0 background, 2 liver, 9 tumor: correct the labels, or give the value a name"
    )


@pytest.mark.parametrize("value", [-1, 3, 255, 256, 2**40, -(2**40)])
def test_values_beyond_the_classes(value: int) -> None:
    values = np.array([[[0, 1, 2, value]]], np.int64)
    with pytest.raises(
        DatasetError, match=rf"file: the value {value} in 1 voxels, the first at \(0, 0, 3\), is no class;"
    ):
        to_positions(values, ("a", "b", "c"), (0, 1, 2), "file")


def test_positions_of_values_in_any_order() -> None:
    values = np.array([[[40, 0, 65535, 3]]], np.int64)
    positions = to_positions(values, ("a", "b", "c", "d"), (0, 65535, 3, 40), "file")
    assert positions.tolist() == [[[3, 0, 1, 2]]]
    assert positions.dtype == np.uint8


def test_255_classes_leave_a_place_for_ignored() -> None:
    names = tuple(f"class {number}" for number in range(255))
    assert to_positions(np.array([[[254]]]), names, range(255), "file").tolist() == [[[254]]]
    with pytest.raises(DatasetError, match=r"the value 255 .*allowed are 0 class 0, .*7 class 7, \.\.\.: correct"):
        to_positions(np.array([[[255]]]), names, range(255), "file")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        write_pair(tmp_path, name)
    (tmp_path / "images/a.nii.gz").unlink()
    (tmp_path / "labels/b.nii.gz").unlink()
    (tmp_path / "labels/c.nii.gz").write_bytes(gzip.compress(b"no volume"))
    dataset = open_set(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    for index, path in enumerate(["images/a.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz"]):
        for read in (dataset.read, dataset.label_volume):
            with pytest.raises(VolumeError, match=rf"^{tmp_path}/{path}: "):
                read(index)
    with pytest.raises(VolumeError, match=r"there is no such file; the labels of .*images/b\.nii\.gz were expected"):
        dataset.read(1)
    for index in (0, 1):
        with pytest.raises(VolumeError, match=r"cannot be read: No such file"):
            dataset.fingerprint(index)


def test_the_fingerprint_tells_of_changes(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.nii")
    dataset = open_set(tmp_path, "a.nii")
    before = dataset.fingerprint(0)
    assert dataset.fingerprint(0) == before
    for folder in ("images", "labels"):
        os.utime(tmp_path / folder / "a.nii", ns=(0, 0))
        assert dataset.fingerprint(0) != before
        before = dataset.fingerprint(0)
    dataset.category_ids = (0, 2, 8)
    assert dataset.fingerprint(0) != before


def test_files_outside_the_folder(tmp_path: Path) -> None:
    write_pair(tmp_path / "far", "a.nii")
    dataset = VolumeDataset(
        root=tmp_path / "here",
        split="train",
        class_names=("background", "liver"),
        category_ids=(0, 1),
        images=[tmp_path / "far/images/a.nii"],
        labels=[tmp_path / "far/labels/a.nii"],
    )
    assert dataset.path(0) == str(tmp_path / "far/images/a.nii")
    dataset.read(0)
