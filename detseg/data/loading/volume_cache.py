"""Volumes as a network sees them, kept in memory or on disk: placing one takes longer than making a patch of it."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from detseg.arrays import ByteArray, DoubleArray, FloatArray
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.loading.cache_store import CacheError, DiskStore, MemoryStore, Store
from detseg.runtime.inputs.volume_geometry import VolumeSpec, lost_classes, place_labels, place_volume, transform_of
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader
from detseg.structures import Target
from detseg.volumes import LabelVolume, Volume, VolumeSample, VolumeTransform

_VERSION = 2
"""Part of the key of a file on disk: a change of what is stored makes the old files unused, not wrong."""


class _Placed(NamedTuple):
    """What is kept of a volume: ``image`` ``[D, H, W]`` or ``[C, D, H, W]`` float32 and, where there are any,
    ``labels`` uint8."""

    image: FloatArray
    labels: ByteArray | None


class PlacedVolumes:
    """``dataset`` with its volumes placed in the grid of a network as ``spec`` says, for the loaders.

    ``mode`` "ram" places all volumes now, in ``num_threads`` threads, into buffers that forked workers share; "disk"
    writes each to ``folder`` when it is first loaded, under a name made of its paths, times, sizes and ``spec``.
    ``folder`` is ``~/.cache/detseg`` (or in ``$XDG_CACHE_HOME``) where it is None. A volume that cannot be read is not
    kept: ``load`` raises its VolumeError every time, as with the mode "none".

    Raises:
        CacheError: before anything is placed: the volumes would not fit, or ``folder`` is inside of the data set.
        DatasetError: with "ram", the labels of a volume do not fit it.
    """

    target: Target = "volumes"

    def __init__(
        self,
        dataset: VolumeDataset,
        spec: VolumeSpec,
        mode: Literal["none", "ram", "disk"] = "none",
        folder: Path | None = None,
        num_threads: int | None = None,
    ) -> None:
        if mode not in ("none", "ram", "disk"):
            raise CacheError(f"cache: mode must be none, ram or disk, got {mode!r}")
        self.dataset = dataset
        self.spec = spec
        self.root, self.home, self.split = dataset.root, dataset.home, dataset.split
        self.class_names, self.category_ids = dataset.class_names, dataset.category_ids
        self.class_colors = dataset.class_colors
        self.has_labels, self.num_dropped = dataset.has_labels, dataset.num_dropped
        self._store: Store | None = None
        self._transforms: list[VolumeTransform | None] = []
        if mode == "none":
            return
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            self._transforms = list(pool.map(self._find_transform, range(len(self))))
            num_bytes = np.array([self._num_bytes(index) for index in range(len(self))], np.int64)
            advice = ("volumes", "set a larger spacing")
            if mode == "disk":
                self._store = DiskStore(folder, num_bytes, self._key, dataset.home, *advice)
            else:
                self._store = MemoryStore(num_bytes, *advice)
                list(pool.map(self._fill, range(len(self))))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return self.dataset.num_channels

    def image_id(self, index: int) -> int:
        """The number of volume ``index``."""
        return self.dataset.image_id(index)

    def path(self, index: int) -> str:
        """The file of volume ``index``."""
        return self.dataset.path(index)

    def label_path(self, index: int) -> str:
        """The file with the labels of volume ``index``; see :meth:`VolumeDataset.label_path`."""
        return self.dataset.label_path(index)

    def header(self, index: int) -> VolumeHeader:
        """What the header of volume ``index`` says; see :meth:`VolumeDataset.header`."""
        return self.dataset.header(index)

    def read(self, index: int) -> tuple[Volume, LabelVolume | None]:
        """Volume ``index`` and its labels on the grid of the file; see :meth:`VolumeDataset.read`."""
        volume, labels = self.dataset.read(index)
        return self.spec.shown(volume), labels

    def label_volume(self, index: int) -> LabelVolume:
        """The labels of volume ``index`` on the grid of the file; see :meth:`VolumeDataset.label_volume`."""
        return self.dataset.label_volume(index)

    def spacings(self) -> DoubleArray:
        """The spacing of the files; see :meth:`VolumeDataset.spacings`."""
        return self.dataset.spacings()

    def load(self, index: int) -> VolumeSample:
        """Volume ``index`` with its labels, if there are any, in the grid of the network. From the cache in memory, the
        arrays can only be read.

        Raises:
            VolumeError: a file is missing or damaged.
            DatasetError: the labels have another grid than the volume, or hold what is no class.
            CacheError: the cache on disk cannot be written.
        """
        image_id, path = self.image_id(index), self.path(index)
        if self._store is not None:
            kept, known = self._store.get(index), self._transforms[index]
            if kept is not None and known is not None:
                image, labels = _unpack(kept, known, self.has_labels, self.spec.num_channels)
                return VolumeSample(image, image_id, path, known, labels)
        placed, transform = self._place(index)
        self._keep(index, placed, transform)
        return VolumeSample(placed.image, image_id, path, transform, placed.labels)

    def lost_classes(self, index: int) -> list[int]:
        """The positions of the classes in the labels of volume ``index`` of which nothing is left in the grid of the
        network. Raises like :meth:`load`."""
        header = self.dataset.header(index)
        transform = transform_of(header.shape, header.affine, self.spec)
        if transform.input_shape == transform.oriented_shape:
            return []
        labels = self.dataset.label_volume(index).labels
        placed = place_labels(labels, transform) if self._store is None else self.load(index).labels
        return [] if placed is None else lost_classes(labels, placed)

    def _place(self, index: int) -> tuple[_Placed, VolumeTransform]:
        volume, labels = self.dataset.read(index)
        try:
            image, transform = place_volume(volume, self.spec)
        except VolumeError as error:
            raise VolumeError(f"{self.path(index)}: {error}") from error
        return _Placed(image, None if labels is None else place_labels(labels.labels, transform)), transform

    def _keep(self, index: int, placed: _Placed, transform: VolumeTransform) -> None:
        known = self._transforms[index] if self._store is not None else None
        # They differ where the file was changed after its header had been read.
        if self._store is not None and known is not None and _describe(known) == _describe(transform):
            self._store.put(index, _pack(placed))

    def _fill(self, index: int) -> None:
        try:
            self._keep(index, *self._place(index))
        except VolumeError:
            # Stays out of the cache; the loader decides what becomes of it when its turn comes.
            return

    def _find_transform(self, index: int) -> VolumeTransform | None:
        """Where volume ``index`` will lie, from its header; None where that cannot be read, and ``load`` says why."""
        try:
            header = self.dataset.header(index)
            return transform_of(header.shape, header.affine, self.spec)
        except VolumeError:
            return None

    def _num_bytes(self, index: int) -> int:
        transform = self._transforms[index]
        return (
            0
            if transform is None
            else math.prod(transform.input_shape) * (4 * self.spec.num_channels + self.has_labels)
        )

    def _key(self, index: int) -> str:
        transform = self._transforms[index]
        where = None if transform is None else _describe(transform)
        return f"volume|{_VERSION}|{where}|{self.spec}|{self.dataset.fingerprint(index)}"


def _pack(placed: _Placed) -> ByteArray:
    """The bytes of the image, then those of the labels."""
    parts = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in placed if part is not None]
    return np.concatenate(parts)


def _unpack(content: ByteArray, transform: VolumeTransform, has_labels: bool, num_channels: int) -> _Placed:
    shape = transform.input_shape
    length = 4 * math.prod(shape) * num_channels
    image = content[:length].view(np.float32).reshape(shape if num_channels == 1 else (num_channels, *shape))
    return _Placed(image, content[length:].reshape(shape) if has_labels else None)


def _describe(transform: VolumeTransform) -> str:
    """The same for equal transforms only."""
    placed = (transform.axes, transform.flips, transform.input_shape, transform.original_shape)
    return f"{placed}|{transform.affine.tolist()}"
