from __future__ import annotations

import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.blobs import BlobsConfig, BlobsDataset
from detseg.data.loading import cache_store
from detseg.data.loading.cache_store import CacheError
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.data.source import DatasetError
from detseg.runtime.inputs.volume_geometry import VolumeSpec, place_labels, place_volume
from detseg.runtime.volumes.nifti import write_label_volume, write_volume
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import read_label_values
from detseg.volumes import LabelVolume, Volume

MODES: list[Literal["none", "ram", "disk"]] = ["none", "ram", "disk"]
SPEC = VolumeSpec(spacing=(1.5, 1.0, 2.0))
BLOBS = BlobsDataset(
    "train", BlobsConfig(num_train=4, min_side=10, max_side=14, min_radius=1, max_radius=3, min_objects=2)
)


@pytest.fixture
def dataset(tmp_path: Path) -> VolumeDataset:
    """Three volumes of ``blobs`` in files, and one whose labels are missing."""
    root = tmp_path / "set"
    for index in range(4):
        volume, labels = BLOBS.read(index)
        write_volume(root / f"images/{index}.nii.gz", volume)
        if index < 3:
            write_label_volume(root / f"labels/{index}.nii.gz", labels)
    return open_set(root)


def open_set(root: Path, labeled: bool = True) -> VolumeDataset:
    return VolumeDataset(
        root=root,
        split="train",
        class_names=BLOBS.class_names,
        category_ids=BLOBS.category_ids,
        images=[root / f"images/{index}.nii.gz" for index in range(4)],
        labels=[root / f"labels/{index}.nii.gz" for index in range(4)] if labeled else None,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("spec", [SPEC, VolumeSpec(intensity="window", window=(0, 300))])
def test_samples_are_the_placed_volumes(
    dataset: VolumeDataset, folder: Path, mode: Literal["none", "ram", "disk"], labeled: bool, spec: VolumeSpec
) -> None:
    dataset = open_set(dataset.root, labeled)
    placed = PlacedVolumes(dataset, spec, mode, folder, num_threads=2)
    for index in (0, 2, 0):
        sample = placed.load(index)
        volume, labels = dataset.read(index)
        image, transform = place_volume(volume, spec)
        assert np.array_equal(sample.image, image)
        assert repr(sample.transform) == repr(transform)
        assert sample.image_id == index + 1
        assert sample.path == dataset.path(index)
        assert (sample.labels is None) == (not labeled)
        if labels is not None and sample.labels is not None:
            assert np.array_equal(sample.labels, place_labels(labels.labels, transform))
            assert set(np.unique(sample.labels)) == {0, 1, 2}


@pytest.mark.parametrize("mode", MODES)
def test_what_it_says_of_the_data_set(
    dataset: VolumeDataset, folder: Path, mode: Literal["none", "ram", "disk"]
) -> None:
    placed = PlacedVolumes(dataset, SPEC, mode, folder)
    assert len(placed) == 4
    for name in ("root", "home", "split", "target", "class_names", "category_ids", "has_labels", "num_dropped"):
        assert getattr(placed, name) == getattr(dataset, name)
    for name in ("image_id", "path", "label_path"):
        assert getattr(placed, name)(1) == getattr(dataset, name)(1)
    assert placed.header(1).shape == dataset.header(1).shape
    assert np.array_equal(placed.spacings(), dataset.spacings())
    assert np.array_equal(placed.read(1)[0].voxels, dataset.read(1)[0].voxels)
    assert np.array_equal(placed.label_volume(1).labels, dataset.label_volume(1).labels)
    with pytest.raises(IndexError):
        placed.load(4)


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_that_cannot_be_read_is_an_error_every_time_and_no_other(
    dataset: VolumeDataset, folder: Path, mode: Literal["none", "ram", "disk"]
) -> None:
    (dataset.root / "images/1.nii.gz").write_bytes(b"damaged")
    placed = PlacedVolumes(dataset, SPEC, mode, folder)
    for _ in range(2):
        placed.load(0)
        with pytest.raises(VolumeError, match=r"images/1\.nii\.gz"):
            placed.load(1)
        with pytest.raises(VolumeError, match=r"labels/3\.nii\.gz"):
            placed.load(3)


def test_memory_keeps_what_the_files_no_longer_have(dataset: VolumeDataset) -> None:
    placed = PlacedVolumes(dataset, SPEC, "ram")
    expected = placed.load(1)
    shutil.rmtree(dataset.root)
    sample = placed.load(1)
    assert np.array_equal(sample.image, expected.image)
    assert sample.labels is not None
    for array in (sample.image, sample.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_memory_that_does_not_suffice_is_refused_before_reading(
    dataset: VolumeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [PlacedVolumes(dataset, SPEC).load(index).image.shape for index in range(3)]
    shapes.append(place_volume(BLOBS.read(3)[0], SPEC)[0].shape)
    needed = 5 * sum(int(np.prod(shape)) for shape in shapes)

    def read(index: int) -> Any:
        raise AssertionError("read although there is no room")

    monkeypatch.setattr(cache_store, "available_memory", lambda: int(needed / 0.8) - 1)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "read", read)
        with pytest.raises(CacheError, match=r"4 volumes need .*; set a larger spacing or"):
            PlacedVolumes(dataset, SPEC, "ram")
    monkeypatch.setattr(cache_store, "available_memory", lambda: int(needed / 0.8) + 2)
    assert PlacedVolumes(dataset, SPEC, "ram").load(0).image.shape == shapes[0]


def test_memory_is_not_copied_into_spawned_workers(dataset: VolumeDataset) -> None:
    with pytest.raises(CacheError, match="the RAM cache is shared with forked workers"):
        pickle.dumps(PlacedVolumes(dataset, SPEC, "ram"))
    assert pickle.loads(pickle.dumps(PlacedVolumes(dataset, SPEC))).load(0).image_id == 1


def test_labels_that_do_not_fit_end_the_filling_of_the_memory(dataset: VolumeDataset) -> None:
    path = dataset.root / "labels/1.nii.gz"
    values, affine = read_label_values(path)
    write_label_volume(path, LabelVolume((values + 1).astype(np.uint8), affine))
    with pytest.raises(DatasetError, match=r"labels/1\.nii\.gz: the value 3"):
        PlacedVolumes(dataset, SPEC, "ram")


def test_the_disk_is_used_again(dataset: VolumeDataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = PlacedVolumes(dataset, SPEC, "disk", folder).load(1)
    files = list(folder.rglob("*.npy"))
    assert len(files) == 1

    def read(index: int) -> Any:
        raise AssertionError("read although it is kept")

    placed = PlacedVolumes(dataset, SPEC, "disk", folder)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "read", read)
        sample = placed.load(1)
        assert np.array_equal(sample.image, expected.image)
        assert np.array_equal(sample.labels, expected.labels)
        # With other settings, or after a change of one of the files, it is not this.
        for spec in (VolumeSpec(), VolumeSpec(SPEC.spacing, "window", (0, 100)), VolumeSpec((1.5001, 1.0, 2.0))):
            with pytest.raises(AssertionError, match="although it is kept"):
                PlacedVolumes(dataset, spec, "disk", folder).load(1)
        os.utime(dataset.root / "labels/1.nii.gz", ns=(0, 0))
        with pytest.raises(AssertionError, match="although it is kept"):
            placed.load(1)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_damaged_files_on_the_disk_are_written_again(
    dataset: VolumeDataset, folder: Path, damage: bytes | None
) -> None:
    expected = PlacedVolumes(dataset, SPEC, "disk", folder).load(1)
    (file,) = folder.rglob("*.npy")
    whole = file.read_bytes()
    if damage is None:
        np.save(file, np.zeros(7, np.uint8))
    else:
        file.write_bytes(damage)
    assert np.array_equal(PlacedVolumes(dataset, SPEC, "disk", folder).load(1).image, expected.image)
    assert file.read_bytes() == whole


def test_a_disk_that_does_not_suffice(dataset: VolumeDataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = namedtuple("free", "free")
    monkeypatch.setattr(cache_store.shutil, "disk_usage", lambda path: free(1000))
    with pytest.raises(CacheError, match=rf"4 volumes need 0\.00 GiB in {folder}, .*name a folder on another disk"):
        PlacedVolumes(dataset, SPEC, "disk", folder)


def test_the_data_set_is_never_written_to(dataset: VolumeDataset) -> None:
    with pytest.raises(CacheError, match="is inside the data set"):
        PlacedVolumes(dataset, SPEC, "disk", dataset.root / "cache")
    assert not (dataset.root / "cache").exists()


def test_the_default_folder(dataset: VolumeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    PlacedVolumes(dataset, SPEC, "disk").load(0)
    assert list((tmp_path / "home/detseg").rglob("*.npy"))


def test_an_unknown_mode(dataset: VolumeDataset) -> None:
    with pytest.raises(CacheError, match="mode must be none, ram or disk, got 'RAM'"):
        PlacedVolumes(dataset, SPEC, "RAM")  # type: ignore[arg-type]


@pytest.mark.parametrize("moved", [0.0, 5.0])
def test_a_file_that_changes_while_the_disk_is_in_use(dataset: VolumeDataset, folder: Path, moved: float) -> None:
    """To another shape, or only to another place."""
    placed = PlacedVolumes(dataset, SPEC, "disk", folder)
    placed.load(0)
    volume, labels = BLOBS.read(0 if moved else 1)
    affine = volume.affine.copy()
    affine[0, 3] += moved
    write_volume(dataset.root / "images/0.nii.gz", Volume(volume.voxels, affine))
    write_label_volume(dataset.root / "labels/0.nii.gz", LabelVolume(labels.labels, affine))
    image, transform = place_volume(dataset.read(0)[0], SPEC)
    for _ in range(2):
        sample = placed.load(0)
        # The second time, another run has stored it.
        PlacedVolumes(dataset, SPEC, "disk", folder).load(0)
        assert np.array_equal(sample.image, image)
        assert repr(sample.transform) == repr(transform)


def test_generated_volumes_can_be_kept_too() -> None:
    placed = PlacedVolumes(BLOBS, VolumeSpec(), "ram")
    assert np.array_equal(placed.load(3).image, place_volume(BLOBS.read(3)[0], VolumeSpec())[0])
