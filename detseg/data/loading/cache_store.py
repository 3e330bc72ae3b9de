"""Where caches keep what was decoded: bytes by index, in memory or on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detseg.arrays import BoolArray, ByteArray, IntArray
from detseg.files import cache_folder
from detseg.runtime.media.images import ImageError

_MEMORY_SHARE = 0.8
"""Of the memory that is available; the rest is for the training itself."""
_ALIGNMENT = 64
"""Bytes; every item begins at a multiple, so that it can be seen as numbers of any type."""


class CacheError(ValueError):
    """A cache that cannot be made as asked for; the message says what to do."""


class Store(Protocol):
    """Keeps the bytes of items."""

    def get(self, index: int) -> ByteArray | None:
        """The bytes ``[N]`` of item ``index``, not to be changed, or None where they are not kept."""

    def put(self, index: int, content: ByteArray) -> None:
        """Keep ``content`` ``[N]``, as many bytes as announced, for item ``index``."""


class MemoryStore:
    """All items one after the other in one buffer, which forked workers share.

    ``num_bytes`` ``[N]`` of each item; ``what`` they are (images, volumes) and ``how_smaller`` for messages.

    Raises:
        CacheError: they would not fit into the memory that is available.
    """

    def __init__(self, num_bytes: IntArray, what: str, how_smaller: str) -> None:
        needed, available = int(num_bytes.sum()), available_memory()
        if available is not None and needed > _MEMORY_SHARE * available:
            raise CacheError(
                f"cache: {len(num_bytes):,} {what} need {needed / 2**30:.2f} GiB of memory, but of the "
                f"{available / 2**30:.2f} GiB available {_MEMORY_SHARE:.0%} may be used; {how_smaller} or use the disk "
                "cache"
            )
        self._num_bytes = num_bytes
        aligned = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(aligned)])
        self._buffer = np.empty(int(self._offsets[-1]), np.uint8)
        self._filled: BoolArray = np.zeros(len(num_bytes), np.bool_)

    def get(self, index: int) -> ByteArray | None:
        """See :class:`Store`."""
        if not self._filled[index]:
            return None
        content = self._view(index)
        # What all share, none may change.
        content.flags.writeable = False
        return content

    def put(self, index: int, content: ByteArray) -> None:
        """See :class:`Store`."""
        self._view(index)[...] = content
        self._filled[index] = True

    def _view(self, index: int) -> ByteArray:
        start = self._offsets[index]
        return self._buffer[start : start + self._num_bytes[index]]

    def __reduce__(self) -> Any:
        raise CacheError(
            "cache: the RAM cache is shared with forked workers and would be copied into every spawned one; use the "
            "disk cache, no workers, or the start method fork"
        )


class DiskStore:
    """One .npy file per item in ``folder``, by default :func:`detseg.files.cache_folder`, under a name
    made of its key.

    ``key_of`` gives a text that changes when the content of an item may have changed, and raises ImageError for an item
    that cannot be read; ``home`` is the folder of the data set. For the others see :class:`MemoryStore`.

    Raises:
        CacheError: ``folder`` lies in ``home``, which is never written to, or the disk has too little room.
    """

    def __init__(
        self,
        folder: Path | None,
        num_bytes: IntArray,
        key_of: Callable[[int], str],
        home: Path,
        what: str,
        how_smaller: str,
    ) -> None:
        self._folder = (folder or cache_folder()).expanduser().absolute()
        self._num_bytes = num_bytes
        self._key_of = key_of
        if self._folder.resolve().is_relative_to(home.resolve()):
            raise CacheError(
                f"cache: {folder} is inside the data set {home}, which is never written to; name another folder"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in range(len(num_bytes)) if not self._is_stored(index)]
        needed, free = int(num_bytes[missing].sum()), shutil.disk_usage(self._folder).free
        if needed > free:
            raise CacheError(
                f"cache: {len(missing):,} {what} need {needed / 2**30:.2f} GiB in {self._folder}, "
                f"{free / 2**30:.2f} GiB are free; {how_smaller}, or name a folder on another disk"
            )

    def get(self, index: int) -> ByteArray | None:
        """See :class:`Store`."""
        try:
            content = np.load(self._path(index), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            # Not there yet, or damaged: it is made and written again.
            return None
        shape = (self._num_bytes[index],)
        fits = isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.shape == shape
        return content if fits else None

    def put(self, index: int, content: ByteArray) -> None:
        """See :class:`Store`. Raises CacheError: the disk cannot be written."""
        path = self._path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as stream:
                np.save(stream, content, allow_pickle=False)
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
        key = hashlib.sha256(self._key_of(index).encode("utf-8", "surrogateescape")).hexdigest()
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
