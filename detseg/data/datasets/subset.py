"""A split without some of its images or volumes: those whose files cannot be used."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset


class ImageSubset(Dataset):
    """The images of ``dataset`` at the positions ``kept``, in this order, with their ids."""

    def __init__(self, dataset: Dataset, kept: Collection[int]) -> None:
        positions = np.array(list(kept), np.int64)
        super().__init__(
            root=dataset.root,
            home=dataset.home,
            split=dataset.split,
            class_names=dataset.class_names,
            category_ids=dataset.category_ids,
            annotations=dataset.annotations.take(positions),
            num_dropped_by_reader=dataset.num_dropped_by_reader,
            target=dataset.target,
        )
        self.has_masks = dataset.has_masks
        self.class_colors = dataset.class_colors
        self._dataset = dataset
        self._positions = positions

    def path(self, index: int) -> str:
        return self._dataset.path(self._position(index))

    def mask_path(self, index: int) -> str:
        return self._dataset.mask_path(self._position(index))

    def mask(self, index: int) -> ByteArray:
        return self._dataset.mask(self._position(index))

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        return self._dataset.read(self._position(index))

    def read_at_least(self, index: int, enough: tuple[int, int] | None) -> tuple[ByteArray, ByteArray | None]:
        return self._dataset.read_at_least(self._position(index), enough)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        self._dataset.check_files(self._position(index), whole=whole)

    def fingerprint(self, index: int) -> str:
        return self._dataset.fingerprint(self._position(index))

    def _position(self, index: int) -> int:
        self.annotations.rows(index)
        return int(self._positions[index])


def leave_out(dataset: Dataset | VolumeDataset, positions: Collection[int]) -> Dataset | VolumeDataset:
    """``dataset`` without what is at ``positions``; images keep their ids, volumes are numbered anew."""
    if not positions:
        return dataset
    kept = [index for index in range(len(dataset)) if index not in positions]
    if isinstance(dataset, Dataset):
        return ImageSubset(dataset, kept)
    return VolumeDataset(
        root=dataset.root,
        home=dataset.home,
        split=dataset.split,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        images=[Path(dataset.path(index)) for index in kept],
        labels=[Path(dataset.label_path(index)) for index in kept] if dataset.has_labels else None,
        trust_grid=dataset.trust_grid,
        channels=dataset.channels,
        ignored=dataset.ignored,
        merged_values=dataset.merged_values,
    )
