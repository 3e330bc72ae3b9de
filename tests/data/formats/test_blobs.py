from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.config import ConfigError
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.blobs import CLASS_NAMES, BlobsConfig, BlobsDataset, make_volume, write_blobs
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.inputs.volume_geometry import orientation
from detseg.volumes import spacing_of

TINY = BlobsConfig(num_train=3, num_val=2, num_test=0, min_side=10, max_side=14, min_radius=1, max_radius=3)


def open_blobs(split: str) -> BlobsDataset:
    dataset = open_dataset("blobs", split)
    assert isinstance(dataset, BlobsDataset)
    return dataset


@pytest.mark.parametrize(("split", "count"), [("train", 48), ("val", 12), ("test", 12)])
def test_every_volume_has_both_classes_on_a_grid_of_its_own(split: str, count: int) -> None:
    dataset = open_blobs(split)
    assert len(dataset) == count
    assert dataset.target == "volumes"
    assert dataset.class_names == CLASS_NAMES == ("background", "bright", "dark")
    assert dataset.category_ids == (0, 1, 2)
    shapes, orientations = set(), set()
    for index in range(count):
        volume, labels = dataset.read(index)
        shape = volume.voxels.shape
        assert labels.labels.shape == shape
        assert 28 <= min(shape) <= max(shape) <= 36
        header = dataset.header(index)
        assert header.shape == shape
        assert np.array_equal(header.affine, volume.affine)
        assert np.array_equal(labels.affine, volume.affine)
        share = np.bincount(labels.labels.ravel(), minlength=3) / labels.labels.size
        assert share[0] > 0.85
        assert share[1:].min() > 0.003  # about a hundred voxels and more
        # Nothing reaches the border, however the body is tilted.
        assert np.count_nonzero(labels.labels) == np.count_nonzero(labels.labels[1:-1, 1:-1, 1:-1])
        shapes.add(shape)
        orientations.add(orientation(volume.affine))
    assert len(shapes) == count
    assert len(orientations) >= count / 2
    spacings = dataset.spacings()
    assert spacings.shape == (count, 3)
    assert spacings.min() >= 0.9
    assert (spacings.max(axis=1) >= 1.2).all()
    assert (np.sort(spacings, axis=1)[:, 1] <= 1.2).all()
    assert set(spacings.argmax(axis=1)) == {0, 1, 2}


def test_intensities_tell_the_classes_apart_and_noise_blurs_them() -> None:
    volume, labels = open_blobs("train").read(0)
    background, bright, dark = (volume.voxels[labels.labels == label] for label in range(3))
    assert dark.mean() + 2 * dark.std() < background.mean() < bright.mean() - 2 * bright.std()
    assert 0.08 < background.std() / background.mean() < 0.3


def test_ellipsoids_have_their_size_in_millimeters() -> None:
    """Balls of radius 4: 268 cubic millimeters each, whatever the voxels, and none in another."""
    config = BlobsConfig(min_objects=8, max_objects=8, min_radius=4, max_radius=4)
    ball = 4 / 3 * np.pi * 4**3
    for index in range(8):
        _, labels = make_volume(config, "train", index)
        counts = np.bincount(labels.labels.ravel(), minlength=3)[1:]
        np.testing.assert_allclose(counts * labels.voxel_milliliters * 1000, 4 * ball, rtol=0.1)
    config = dataclasses.replace(config, min_objects=2, max_objects=2)
    for index in range(8):
        _, labels = make_volume(config, "train", index)
        # As wide in millimeters along each axis, too: 2 * 4, give or take a voxel.
        voxels = np.argwhere(labels.labels == 1)
        width = (np.ptp(voxels, axis=0) + 1) * spacing_of(labels.affine)
        assert np.abs(width - 8).max() < max(spacing_of(labels.affine)) + 0.1


def test_a_volume_is_a_function_of_split_index_and_configuration() -> None:
    volume, labels = make_volume(TINY, "train", 1)
    again, same_labels = make_volume(TINY, "train", 1)
    assert np.array_equal(volume.voxels, again.voxels)
    assert np.array_equal(labels.labels, same_labels.labels)
    for config, split, index in [
        (TINY, "val", 1),
        (TINY, "train", 0),
        (dataclasses.replace(TINY, seed=1), "train", 1),
    ]:
        other, _ = make_volume(config, split, index)
        assert other.voxels.shape != volume.voxels.shape or not np.array_equal(other.voxels, volume.voxels)


def test_names_and_fingerprints() -> None:
    dataset = BlobsDataset("train", TINY)
    assert dataset.path(2) == dataset.label_path(2) == "blobs/train/0002.nii.gz"
    assert dataset.image_id(2) == 3
    assert len({dataset.fingerprint(index) for index in range(3)} | {BlobsDataset("val", TINY).fingerprint(0)}) == 4
    for method in (dataset.read, dataset.header, dataset.path, dataset.fingerprint, dataset.label_volume):
        with pytest.raises(IndexError):
            method(3)


def test_a_yaml_with_settings(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("format: blobs\nnum_train: 2\nnum_test: 0\n")
    assert available_splits(path) == ("train", "val")
    assert len(open_dataset(path, "train")) == 2
    path.write_text("format: blobs\nnum_trian: 2\n")
    with pytest.raises(ConfigError, match="num_trian"):
        open_dataset(path, "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_val": -1}, "num_val: allowed are 0 to 100,000, got -1"),
        ({"num_test": 10**12}, "num_test: allowed are 0 to 100,000, got 1000000000000"),
        ({"seed": -1}, "seed: allowed are 0 or more"),
        ({"min_side": 4}, "8 to 128, in order, got 4 and 36"),
        ({"max_side": 20}, "got 28 and 20"),
        ({"min_objects": 7}, "0 to 100, in order, got 7 and 6"),
        ({"max_radius": 12.0}, r"0.5 to 11.2 \(0.4 min_side\), in order, got 3.5 and 12.0"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        BlobsConfig(**values)


def test_written_blobs_open_as_a_data_set_of_nifti_files(tmp_path: Path) -> None:
    write_blobs(tmp_path / "set", 3, config=TINY)
    dataset = open_dataset(tmp_path / "set", "all")
    assert isinstance(dataset, VolumeDataset)
    assert dataset.class_names == CLASS_NAMES
    source = BlobsDataset("train", TINY)
    for index in range(3):
        (volume, labels), (expected, expected_labels) = dataset.read(index), source.read(index)
        assert labels is not None
        assert np.array_equal(volume.voxels, expected.voxels)
        assert np.array_equal(labels.labels, expected_labels.labels)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert json.loads((tmp_path / "set/dataset.json").read_text())["numTraining"] == 3
    with pytest.raises(DatasetError, match="num_volumes: allowed are 1 to 3, the size of train, got 4"):
        write_blobs(tmp_path / "more", 4, config=TINY)
