"""Large COCO files that were read once, kept in the user's cache folder and never in the data set."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from pathlib import Path

from detseg.data.datasets.kept_arrays import SUFFIX, keep, load_arrays, save_arrays
from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.datasets.packed import PackedAnnotations, PackedStrings
from detseg.data.formats.coco_columns import CocoColumns, read_columns
from detseg.files import cache_folder, open_regular

MIN_BYTES = 20_000_000
"""Smaller files are read as fast without."""
MAX_CACHE_BYTES = 4 * 2**30
"""Of all files that are kept; those that were not used for longest go first."""

_MAGIC = b"detseg coco 1\n\0\0"
"""Changes with what is kept, so that files of other versions are not taken for those of this one."""
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
        kept = cache_folder() / "coco" / f"{digest}{SUFFIX}"
    except OSError:  # also where there is no home
        return read_columns(path, max_bytes)
    columns = load_columns(kept, path, status)
    if columns is None:
        columns = read_columns(path, max_bytes)
        if columns is not None:
            found = columns
            keep(kept, lambda place: save_columns(place, found), home, MAX_CACHE_BYTES)
    return columns


def load_columns(kept: Path, path: Path, status: os.stat_result) -> CocoColumns | None:
    """What :func:`save_columns` wrote to ``kept`` of the file ``path``, which has this ``status`` now; None where there
    is nothing, or it is damaged, or of another version."""
    loaded = load_arrays(kept, _MAGIC)
    if loaded is None:
        return None
    header, arrays = loaded
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
    arrays = {
        **{name: getattr(packed, name) for name in _PLAIN},
        "names": packed.names.buffer,
        "name_offsets": packed.names.offsets,
        "category_ids": columns.category_ids,
        "outline_starts": outlines.starts,
        "outline_lengths": outlines.lengths,
    }
    save_arrays(kept, _MAGIC, {"categories": columns.categories}, arrays)
