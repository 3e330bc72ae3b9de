"""A split without some of its images or volumes is the same data set of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.subset import leave_out
from detseg.data.formats.blobs import BlobsConfig, write_blobs
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.data.loading.cache import CachedDataset
from detseg.data.open import open_dataset


def test_images_keep_all_that_is_known_of_them() -> None:
    whole = ShapesDataset("train", ShapesConfig(num_train=6))
    part = leave_out(whole, {0, 3})
    assert isinstance(part, Dataset)
    assert len(part) == 4
    for index, original in enumerate([1, 2, 4, 5]):
        assert part.image_id(index) == whole.image_id(original)
        assert part.path(index) == whole.path(original)
        assert part.fingerprint(index) == whole.fingerprint(original)
        assert part.annotation_ids(index).tolist() == whole.annotation_ids(original).tolist()
        assert (part.ground_truth(index).boxes_xywh == whole.ground_truth(original).boxes_xywh).all()
        ours, theirs = part.load(index), whole.load(original)
        assert (ours.image == theirs.image).all()
        assert (ours.boxes_xyxy == theirs.boxes_xyxy).all()
        assert (part.mask(index) == whole.mask(original)).all()
    assert (CachedDataset(part, "ram").load(3).image == whole.load(5).image).all()
    with pytest.raises(IndexError):
        part.path(4)


def test_nothing_to_leave_out() -> None:
    whole = ShapesDataset("train", ShapesConfig(num_train=2))
    assert leave_out(whole, set()) is whole


def test_volumes(tmp_path: Path) -> None:
    write_blobs(tmp_path, 3, config=BlobsConfig(min_side=20, max_side=24, max_radius=6))
    whole = open_dataset(tmp_path, "all")
    part = leave_out(whole, {1})
    assert [part.path(index) for index in range(len(part))] == [whole.path(0), whole.path(2)]
    assert np.array_equal(part.label_volume(1).labels, whole.label_volume(2).labels)  # type: ignore[union-attr]
