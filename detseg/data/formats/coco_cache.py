"""Large COCO files that were read once, kept in the user's cache folder and never in the data set."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.datasets.packed import PackedAnnotations, PackedStrings
from detseg.data.formats.coco_columns import CocoColumns, read_columns
from detseg.files import atomic_path, cache_folder, open_regular

MIN_BYTES = 20_000_000
"""Smaller files are read as fast without."""
MAX_CACHE_BYTES = 4 * 2**30
"""Of all files that are kept; those that were not used for longest go first."""

_MAGIC = b"detseg coco 1\n\0\0"
"""Changes with what is kept, so that files of other versions are not taken for those of this one."""
_ALIGNMENT = 64
_SUFFIX = ".columns"
_PLAIN = tuple(field.name for field in fields(PackedAnnotations) if field.name not in ("names", "segmentations"))


def open_columns(path: Path, max_bytes: int, home: Path) -> CocoColumns | None:
    """As :func:`detseg.data.formats.coco_columns.read_columns`, for large files from the cache, if this holds what they
    hold now: they are known by the SHA-256 of all their bytes. ``home`` is the folder of the data set.

    The arrays are then a view of the kept file, which all processes share.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not MIN_BYTES <= status.st_size <= max_bytes:
                return read_columns(path, max_bytes)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = cache_folder() / "coco" / f"{digest}{_SUFFIX}"
    except OSError:  # also where there is no home
        return read_columns(path, max_bytes)
    columns = load_columns(kept, path, status)
    if columns is None:
        columns = read_columns(path, max_bytes)
        if columns is not None:
            _keep(kept, columns, home)
    return columns


def load_columns(kept: Path, path: Path, status: os.stat_result) -> CocoColumns | None:
    """What :func:`save_columns` wrote to ``kept`` of the file ``path``, which has this ``status`` now; None where there
    is nothing, or it is damaged, or of another version."""
    try:
        with kept.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not there, or empty
        return None
    with suppress(OSError):  # that of another user is read all the same
        os.utime(kept)
    header_end = len(_MAGIC) + 8
    if buffer[: len(_MAGIC)] != _MAGIC:
        return None
    start = header_end + int.from_bytes(buffer[len(_MAGIC) : header_end], "little")
    view = memoryview(buffer)
    try:
        header = json.loads(view[header_end:start].tobytes())
        if header["num_bytes"] != len(buffer) - start or header["crc32"] != zlib.crc32(view[start:]):
            return None
        arrays = {
            name: np.frombuffer(buffer, dtype, int(np.prod(shape)), start + offset).reshape(shape)
            for name, dtype, shape, offset in header["arrays"]
        }
    except (ValueError, KeyError, TypeError):
        return None
    packed = PackedAnnotations(
        **{name: arrays[name] for name in _PLAIN},
        names=PackedStrings(arrays["names"], arrays["name_offsets"]),
        segmentations=OutlinesInFile(
            path, status.st_size, status.st_mtime_ns, arrays["outline_starts"], arrays["outline_lengths"]
        ),
    )
    return CocoColumns(header["categories"], arrays["category_ids"], packed)


def save_columns(kept: Path, columns: CocoColumns) -> None:
    """Write ``columns`` to ``kept``, whole or not at all. Raises SaveError."""
    packed, outlines = columns.packed, columns.packed.segmentations
    assert isinstance(outlines, OutlinesInFile)
    arrays: Mapping[str, np.ndarray[Any, Any]] = {
        **{name: getattr(packed, name) for name in _PLAIN},
        "names": packed.names.buffer,
        "name_offsets": packed.names.offsets,
        "category_ids": columns.category_ids,
        "outline_starts": outlines.starts,
        "outline_lengths": outlines.lengths,
    }
    table, parts, position, checksum = [], [], 0, 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        content += b"\0" * (-len(content) % _ALIGNMENT)
        table.append((name, array.dtype.str, array.shape, position))
        position += len(content)
        checksum = zlib.crc32(content, checksum)
        parts.append(content)
    header = json.dumps(
        {"categories": columns.categories, "arrays": table, "num_bytes": position, "crc32": checksum}
    ).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGNMENT)
    with atomic_path(kept) as temporary, temporary.open("wb") as file:
        file.writelines([_MAGIC, len(header).to_bytes(8, "little"), header, *parts])


def _keep(kept: Path, columns: CocoColumns, home: Path) -> None:
    """Keep ``columns`` where that can be done; nothing depends on it."""
    if kept.resolve().is_relative_to(home.resolve()):
        reason = f"{kept.parent} is inside the data set {home}, which is never written to"
    else:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_columns(kept, columns)
            trim(kept.parent, MAX_CACHE_BYTES)
            return
        except OSError as error:
            reason = str(error)
    warnings.warn(
        f"the annotations were read, but are not kept for the next time: {reason}; DETSEG_CACHE names another folder",
        stacklevel=2,
    )


def trim(folder: Path, max_bytes: int) -> None:
    """Remove kept files, those first that were not used for longest, until they have ``max_bytes`` at the most."""
    kept = []
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process has removed it
            continue
        kept.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
