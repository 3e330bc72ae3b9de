"""Decoded images kept in memory or on disk, for data sets whose decoding is slower than the training."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from detseg.arrays import BoolArray, ByteArray, IntArray
from detseg.data.dataset import Dataset
from detseg.runtime.images import ImageError

_MEMORY_SHARE = 0.8
"""Of the memory that is available; the rest is for the training itself."""

_VERSION = 1
"""Part of the key of a file on disk: a change of what is stored makes the old files unused, not wrong."""


class CacheError(ValueError):
    """A cache that cannot be made as asked for; the message says what to do."""


class CachedDataset(Dataset):
    """``dataset`` with its decoded images kept, optionally smaller: the long side at most ``max_side`` pixels.

    Boxes, masks and the placement of samples are those of the smaller image; sizes and ground truth stay those of the
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
            truth=dataset.truth,
        )
        self.has_masks = dataset.has_masks
        self._dataset = dataset
        self._max_side = max_side
        self._shapes = _stored_shapes(dataset, max_side)
        self._store: _MemoryStore | _DiskStore
        if mode == "disk":
            self._store = _DiskStore(folder or _default_folder(), self._shapes, dataset)
        else:
            self._store = _MemoryStore(self._shapes)
            with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
                list(pool.map(self._keep, range(len(dataset))))

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        self.annotations.rows(index)
        pixels = self._store.get(index)
        if pixels is None:
            pixels = self._decode(index)
            self._store.put(index, pixels)
        return pixels[..., :3].copy(), pixels[..., 3].copy() if self.has_masks else None

    def mask_path(self, index: int) -> str:
        return self._dataset.mask_path(index)

    def mask(self, index: int) -> ByteArray:
        stored_size = tuple(self._shapes[index, :2])
        return super().mask(index) if stored_size == self.size(index) else self._dataset.mask(index)

    def fingerprint(self, index: int) -> str:
        return f"{self._dataset.fingerprint(index)}|{self._max_side}"

    def _keep(self, index: int) -> None:
        try:
            self._store.put(index, self._decode(index))
        except ImageError:
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


class _MemoryStore:
    """All images one after the other in one buffer."""

    def __init__(self, shapes: IntArray) -> None:
        lengths = shapes.prod(axis=1)
        needed, available = int(lengths.sum()), available_memory()
        if available is not None and needed > _MEMORY_SHARE * available:
            raise CacheError(
                f"cache: {len(shapes):,} images need {needed / 2**30:.2f} GiB of memory, but of the "
                f"{available / 2**30:.2f} GiB available {_MEMORY_SHARE:.0%} may be used; set a smaller max_side or "
                "use the disk cache"
            )
        self._shapes = shapes
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self._buffer = np.empty(needed, np.uint8)
        self._filled: BoolArray = np.zeros(len(shapes), np.bool_)

    def get(self, index: int) -> ByteArray | None:
        return self._view(index) if self._filled[index] else None

    def put(self, index: int, pixels: ByteArray) -> None:
        self._view(index)[...] = pixels
        self._filled[index] = True

    def _view(self, index: int) -> ByteArray:
        return self._buffer[self._offsets[index] : self._offsets[index + 1]].reshape(self._shapes[index])

    def __reduce__(self) -> Any:
        raise CacheError(
            "cache: the RAM cache is shared with forked workers and would be copied into every spawned one; use the "
            "disk cache, no workers, or the start method fork"
        )


class _DiskStore:
    """One .npy file per image."""

    def __init__(self, folder: Path, shapes: IntArray, dataset: Dataset) -> None:
        self._folder = folder.expanduser().absolute()
        self._shapes = shapes
        self._dataset = dataset
        if self._folder.resolve().is_relative_to(dataset.home.resolve()):
            raise CacheError(
                f"cache: {folder} is inside the data set {dataset.home}, which is never written to; name another folder"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in range(len(shapes)) if not self._is_stored(index)]
        needed, free = int(shapes[missing].prod(axis=1).sum()), shutil.disk_usage(self._folder).free
        if needed > free:
            raise CacheError(
                f"cache: {len(missing):,} images need {needed / 2**30:.2f} GiB in {self._folder}, "
                f"{free / 2**30:.2f} GiB are free; set a smaller max_side, or name a folder on another disk"
            )

    def get(self, index: int) -> ByteArray | None:
        try:
            pixels = np.load(self._path(index), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            # Not there yet, or damaged: it is decoded and written again.
            return None
        shape = tuple(self._shapes[index])
        fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == shape
        return pixels if fits else None

    def put(self, index: int, pixels: ByteArray) -> None:
        path = self._path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as stream:
                np.save(stream, pixels, allow_pickle=False)
            temporary.replace(path)
        except OSError as error:
            raise CacheError(f"cache: cannot write {path}: {error}; name another folder, or use no cache") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _is_stored(self, index: int) -> bool:
        try:
            return self._path(index).is_file()
        except ImageError:
            return False

    def _path(self, index: int) -> Path:
        shape = tuple(int(side) for side in self._shapes[index])
        key = hashlib.sha256(f"{_VERSION}|{shape}|{self._dataset.fingerprint(index)}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.npy"


def available_memory() -> int | None:
    """Bytes that this process may still take: of the machine, and of its control group on Linux; None if unknown."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf"):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limits.append(int((group / limit_name).read_text()) - int((group / used_name).read_text()))
        except (OSError, ValueError):
            continue  # No such control group, or "max": no limit.
    return min(limits, default=None)


def _stored_shapes(dataset: Dataset, max_side: int | None) -> IntArray:
    """``[N, 3]``: height, width and channels of every image as stored."""
    sizes = np.stack([dataset.annotations.heights, dataset.annotations.widths], axis=1)
    if max_side is not None:
        ratio = np.minimum(1.0, max_side / np.maximum(sizes.max(axis=1, keepdims=True), 1))
        # An image of unknown size (0, 0) cannot be read anyway and takes no room.
        sizes = np.maximum(np.rint(sizes * ratio).astype(np.int64), np.minimum(sizes, 1))
    channels = np.full((len(sizes), 1), 4 if dataset.has_masks else 3)
    return np.concatenate([sizes, channels], axis=1).astype(np.int64)


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detseg"
