"""Volumes as a network sees them, kept in memory or on disk: placing one takes longer than making a patch of it."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray, FloatArray, IntArray
from detseg.data.cache import CacheError, available_memory
from detseg.data.volumes import VolumeDataset
from detseg.files import SaveError, atomic_path
from detseg.runtime.nifti_header import VolumeError, VolumeHeader
from detseg.runtime.volume_geometry import VolumeSpec, place_labels, place_volume, placement_of
from detseg.structures import Truth
from detseg.volumes import LabelVolume, Volume, VolumePlacement, VolumeSample

_MEMORY_SHARE = 0.8
"""Of the memory that is available; the rest is for the training itself."""

_VERSION = 1
"""Part of the key of a file on disk: a change of what is stored makes the old files unused, not wrong."""


class _Placed(NamedTuple):
    """What is kept of a volume: ``image`` ``[D, H, W]`` float32 and, where there are any, ``labels`` uint8."""

    image: FloatArray
    labels: ByteArray | None


class _Store(Protocol):
    """Keeps placed volumes."""

    def get(self, index: int) -> _Placed | None:
        """Volume ``index``, or None where it is not kept."""

    def put(self, index: int, placed: _Placed) -> None:
        """Keep volume ``index``."""


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

    truth: Truth = "volumes"

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
        self.has_labels, self.num_dropped = dataset.has_labels, dataset.num_dropped
        self._store: _Store | None = None
        self._placements: list[VolumePlacement | None] = []
        if mode == "none":
            return
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            self._placements = list(pool.map(self._find_placement, range(len(self))))
            if mode == "disk":
                self._store = _DiskStore(folder or _default_folder(), self._placements, dataset, spec)
            else:
                self._store = _MemoryStore(self._placements, self.has_labels)
                list(pool.map(self._fill, range(len(self))))

    def __len__(self) -> int:
        return len(self.dataset)

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
        return self.dataset.read(index)

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
            kept, known = self._store.get(index), self._placements[index]
            if kept is not None and known is not None:
                return VolumeSample(kept.image, image_id, path, known, kept.labels)
        placed, placement = self._place(index)
        self._keep(index, placed, placement)
        return VolumeSample(placed.image, image_id, path, placement, placed.labels)

    def _place(self, index: int) -> tuple[_Placed, VolumePlacement]:
        volume, labels = self.dataset.read(index)
        image, placement = place_volume(volume, self.spec)
        return _Placed(image, None if labels is None else place_labels(labels.labels, placement)), placement

    def _keep(self, index: int, placed: _Placed, placement: VolumePlacement) -> None:
        known = self._placements[index] if self._store is not None else None
        # They differ where the file was changed after its header had been read.
        if self._store is not None and known is not None and _describe(known) == _describe(placement):
            self._store.put(index, placed)

    def _fill(self, index: int) -> None:
        try:
            self._keep(index, *self._place(index))
        except VolumeError:
            # Stays out of the cache; the loader decides what becomes of it when its turn comes.
            return

    def _find_placement(self, index: int) -> VolumePlacement | None:
        """Where volume ``index`` will lie, from its header; None where that cannot be read, and ``load`` says why."""
        try:
            header = self.dataset.header(index)
        except VolumeError:
            return None
        return placement_of(header.shape, header.affine, self.spec)


class _MemoryStore:
    """All images one after the other in one buffer, all labels in another."""

    def __init__(self, placements: Sequence[VolumePlacement | None], has_labels: bool) -> None:
        self._placements = placements
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(_num_voxels(placements))])
        num_voxels = int(self._offsets[-1])
        needed, available = num_voxels * _bytes_per_voxel(has_labels), available_memory()
        if available is not None and needed > _MEMORY_SHARE * available:
            raise CacheError(
                f"cache: {len(placements):,} volumes need {needed / 2**30:.2f} GiB of memory, but of the "
                f"{available / 2**30:.2f} GiB available {_MEMORY_SHARE:.0%} may be used; set a larger spacing or use "
                "the disk cache"
            )
        self._images = np.empty(num_voxels, np.float32)
        self._labels = np.empty(num_voxels, np.uint8) if has_labels else None
        self._filled: BoolArray = np.zeros(len(placements), np.bool_)

    def get(self, index: int) -> _Placed | None:
        if not self._filled[index]:
            return None
        placed = self._views(index)
        # What all share, none may change.
        for array in placed:
            if array is not None:
                array.flags.writeable = False
        return placed

    def put(self, index: int, placed: _Placed) -> None:
        kept = self._views(index)
        kept.image[...] = placed.image
        if kept.labels is not None and placed.labels is not None:
            kept.labels[...] = placed.labels
        self._filled[index] = True

    def _views(self, index: int) -> _Placed:
        placement = self._placements[index]
        assert placement is not None, "nothing is known of this volume"
        shape = placement.input_shape
        span = slice(self._offsets[index], self._offsets[index + 1])
        labels = None if self._labels is None else self._labels[span].reshape(shape)
        return _Placed(self._images[span].reshape(shape), labels)

    def __reduce__(self) -> Any:
        raise CacheError(
            "cache: the RAM cache is shared with forked workers and would be copied into every spawned one; use the "
            "disk cache, no workers, or the start method fork"
        )


class _DiskStore:
    """One .npy file per volume: the bytes of the image, then those of the labels."""

    def __init__(
        self, folder: Path, placements: Sequence[VolumePlacement | None], dataset: VolumeDataset, spec: VolumeSpec
    ) -> None:
        self._folder = folder.expanduser().absolute()
        self._placements = placements
        self._dataset = dataset
        self._spec = spec
        if self._folder.resolve().is_relative_to(dataset.home.resolve()):
            raise CacheError(
                f"cache: {folder} is inside the data set {dataset.home}, which is never written to; name another folder"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [placement for index, placement in enumerate(placements) if placement and not self._is_stored(index)]
        needed = int(_num_voxels(missing).sum()) * _bytes_per_voxel(dataset.has_labels)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise CacheError(
                f"cache: {len(missing):,} volumes need {needed / 2**30:.2f} GiB in {self._folder}, "
                f"{free / 2**30:.2f} GiB are free; set a larger spacing, or name a folder on another disk"
            )

    def get(self, index: int) -> _Placed | None:
        placement = self._placements[index]
        if placement is None:
            return None
        try:
            content = np.load(self._path(index), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            # Not there yet, or damaged: it is placed and written again.
            return None
        shape = placement.input_shape
        num_voxels = math.prod(shape)
        length = num_voxels * _bytes_per_voxel(self._dataset.has_labels)
        if not isinstance(content, np.ndarray) or content.dtype != np.uint8 or content.shape != (length,):
            return None
        image = content[: 4 * num_voxels].view(np.float32).reshape(shape)
        return _Placed(image, content[4 * num_voxels :].reshape(shape) if self._dataset.has_labels else None)

    def put(self, index: int, placed: _Placed) -> None:
        parts = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in placed if part is not None]
        try:
            with atomic_path(self._path(index)) as temporary:
                np.save(temporary, np.concatenate(parts), allow_pickle=False)
        except SaveError as error:
            raise CacheError(f"cache: {error}; name another folder, or use no cache") from error

    def _is_stored(self, index: int) -> bool:
        try:
            return self._path(index).is_file()
        except VolumeError:
            return False

    def _path(self, index: int) -> Path:
        placement = self._placements[index]
        where = None if placement is None else _describe(placement)
        key = f"volume|{_VERSION}|{where}|{self._spec}|{self._dataset.fingerprint(index)}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / name[:2] / f"{name}.npy"


def _num_voxels(placements: Sequence[VolumePlacement | None]) -> IntArray:
    return np.array(
        [0 if placement is None else math.prod(placement.input_shape) for placement in placements], np.int64
    )


def _describe(placement: VolumePlacement) -> str:
    """The same for equal placements only."""
    placed = (placement.axes, placement.flips, placement.input_shape, placement.original_shape)
    return f"{placed}|{placement.affine.tolist()}"


def _bytes_per_voxel(has_labels: bool) -> int:
    return 5 if has_labels else 4


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detseg"
