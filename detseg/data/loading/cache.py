"""Decoded images kept in memory or on disk, for data sets whose decoding is slower than the training."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from detseg.arrays import ByteArray, IntArray
from detseg.data.datasets.dataset import Dataset
from detseg.data.loading.cache_store import CacheError, DiskStore, MemoryStore, Store
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError

_VERSION = 2
"""Part of the key of a file on disk: a change of what is stored makes the old files unused, not wrong."""


class CachedDataset(Dataset):
    """``dataset`` with its decoded images kept, optionally smaller: the long side at most ``max_side`` pixels.

    Boxes, masks and the transform of samples are those of the smaller image; sizes and ground truth stay those of the
    original. ``mode`` "ram" decodes all images now, in ``num_threads`` threads, into one buffer that forked workers
    share; "disk" writes each image to ``folder`` when it is first read, under a name made of its path, time and size.
    ``folder`` is ``~/.cache/detseg`` (or in ``$XDG_CACHE_HOME``) where it is None. An image that cannot be read is not
    kept: ``load`` raises its ImageError every time, as without a cache.

    Raises:
        CacheError: before anything is decoded: the images would not fit, or ``folder`` is inside of the data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        mode: Literal["ram", "disk"],
        max_side: int | None = None,
        *,
        folder: Path | None = None,
        num_threads: int | None = None,
    ) -> None:
        if mode not in ("ram", "disk"):
            raise CacheError(f"cache: mode must be ram or disk, got {mode!r}")
        if max_side is not None and max_side < 1:
            raise CacheError(f"cache: max_side must be at least 1 pixel, got {max_side}")
        super().__init__(
            root=dataset.root,
            home=dataset.home,
            split=dataset.split,
            class_names=dataset.class_names,
            annotations=dataset.annotations,
            category_ids=dataset.category_ids,
            num_dropped_by_reader=dataset.num_dropped_by_reader,
            target=dataset.target,
        )
        self.has_masks = dataset.has_masks
        self.class_colors = dataset.class_colors
        self._dataset = dataset
        self._max_side = max_side
        self._shapes = _stored_shapes(dataset, max_side)
        self._store: Store
        num_bytes, advice = self._shapes.prod(axis=1), ("images", "set a smaller max_side")
        if mode == "disk":
            self._store = DiskStore(folder, num_bytes, self._key, dataset.home, *advice)
        else:
            self._store = MemoryStore(num_bytes, *advice)
            with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
                list(pool.map(self._keep, range(len(dataset))))

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        self.annotations.rows(index)
        kept = self._store.get(index)
        if kept is None:
            pixels = self._decode(index)
            self._store.put(index, pixels.ravel())
        else:
            pixels = kept.reshape(self._shapes[index])
        return pixels[..., :3].copy(), pixels[..., 3].copy() if self.has_masks else None

    def mask_path(self, index: int) -> str:
        return self._dataset.mask_path(index)

    def mask(self, index: int) -> ByteArray:
        stored_size = tuple(self._shapes[index, :2])
        return super().mask(index) if stored_size == self.size(index) else self._dataset.mask(index)

    def fingerprint(self, index: int) -> str:
        return f"{self._dataset.fingerprint(index)}|{self._max_side}"

    def _key(self, index: int) -> str:
        shape = tuple(int(side) for side in self._shapes[index])
        return f"{_VERSION}|{shape}|{self._dataset.fingerprint(index)}"

    def _keep(self, index: int) -> None:
        try:
            self._store.put(index, self._decode(index).ravel())
        except (ImageError, DatasetError):
            # Stays out of the cache; the loader decides what becomes of it when its turn comes.
            return

    def _decode(self, index: int) -> ByteArray:
        """Image ``index`` at its stored size ``[H, W, 3]``, with the mask as fourth channel where there are masks."""
        image, mask = self._dataset.read(index)
        height, width, _ = self._shapes[index]
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            if mask is not None:
                mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        return image if mask is None else np.dstack([image, mask])


def _stored_shapes(dataset: Dataset, max_side: int | None) -> IntArray:
    """``[N, 3]``: height, width and channels of every image as stored."""
    sizes = np.stack([dataset.annotations.heights, dataset.annotations.widths], axis=1)
    if max_side is not None:
        ratio = np.minimum(1.0, max_side / np.maximum(sizes.max(axis=1, keepdims=True), 1))
        # An image of unknown size (0, 0) cannot be read anyway and takes no room.
        sizes = np.maximum(np.rint(sizes * ratio).astype(np.int64), np.minimum(sizes, 1))
    channels = np.full((len(sizes), 1), 4 if dataset.has_masks else 3)
    return np.concatenate([sizes, channels], axis=1).astype(np.int64)
