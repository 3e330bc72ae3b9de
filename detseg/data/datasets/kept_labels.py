"""Labels that lie in many small files and were read once, known by the state of all these files: YOLO, VOC."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import BoolArray
from detseg.data.datasets.kept_arrays import SUFFIX, keep, load_arrays, save_arrays
from detseg.data.datasets.packed import PackedAnnotations, PackedSegmentations, PackedStrings
from detseg.files import cache_folder

MIN_FILES = 4_000
"""Fewer are read as fast without."""
MAX_CACHE_BYTES = 2**30
"""Of all files that are kept; those that were not used for longest go first."""

_MAGIC = b"detseg labels 1\n"
"""Changes with what is kept and with how labels are read, so that files of other versions are not taken for those of
this one."""
_SETTLED_SECONDS = 2
"""A file that changed later than this before it was read may change once more without another time, in the grain of the
coarsest file systems."""
_PLAIN = tuple(field.name for field in fields(PackedAnnotations) if field.name not in ("names", "segmentations"))
_OUTLINES = ("points", "polygon_offsets", "object_offsets")


class FileStates:
    """The state of the files that labels are read from, and all else that what is read depends on (``about``).

    A file's state is its path, its size, and the times of its last change and of the last change of its inode, which
    no program can set back: reading 100,000 files to know them by their content would take as long as parsing them.
    """

    def __init__(self, *about: object) -> None:
        self._digest = hashlib.sha256(repr(about).encode("utf-8", "surrogateescape"))
        self._num_files = 0
        self._newest = 0

    def add(self, path: Path | str) -> bool:
        """Add the state of the file ``path``, to which links are followed; returns whether there is one."""
        text = str(path)
        try:
            status = os.stat(text)  # noqa: PTH116 - there may be several hundred thousand
        except (OSError, ValueError):
            state = "none"
        else:
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            self._newest = max(self._newest, status.st_ctime_ns)
        self._digest.update(f"{text}\0{state}\n".encode("utf-8", "surrogateescape"))
        self._num_files += 1
        return state != "none"

    def kept(self) -> Path | None:
        """Where labels that were read from these files are kept; None where they are few or have just changed, or
        there is no cache folder."""
        is_settled = time.time_ns() - self._newest > _SETTLED_SECONDS * 10**9
        if self._num_files < MIN_FILES or not is_settled:
            return None
        try:
            return cache_folder() / "labels" / f"{self._digest.hexdigest()}{SUFFIX}"
        except OSError:  # there is no home
            return None


@dataclass(frozen=True, slots=True)
class KeptLabels:
    """What files without a fault say: ``states_size`` ``[N]`` is whether they state the size of an image."""

    class_names: tuple[str, ...]
    packed: PackedAnnotations
    states_size: BoolArray


def load_labels(kept: Path | None) -> KeptLabels | None:
    """What :func:`keep_labels` wrote to ``kept``; None where there is nothing, or it is damaged, or of another
    version."""
    loaded = None if kept is None else load_arrays(kept, _MAGIC)
    if loaded is None:
        return None
    header, arrays = loaded
    packed = PackedAnnotations(
        **{name: arrays[name] for name in _PLAIN},
        names=_strings(arrays, "names"),
        segmentations=PackedSegmentations(
            **{name: arrays[name] for name in _OUTLINES}, run_lengths=_strings(arrays, "run_lengths")
        ),
    )
    return KeptLabels(tuple(header["class_names"]), packed, arrays["states_size"])


def keep_labels(
    kept: Path | None,
    class_names: Sequence[str],
    packed: PackedAnnotations,
    states_size: Sequence[bool],
    home: Path,
) -> None:
    """Keep labels at ``kept``, unless that is None or inside the data set ``home``; a warning where it cannot be
    done."""
    if kept is None:
        return
    outlines = packed.segmentations
    assert isinstance(outlines, PackedSegmentations)
    arrays: dict[str, np.ndarray[Any, Any]] = {name: getattr(packed, name) for name in _PLAIN}
    arrays |= {name: getattr(outlines, name) for name in _OUTLINES}
    for name, texts in (("names", packed.names), ("run_lengths", outlines.run_lengths)):
        arrays |= {f"{name}_buffer": texts.buffer, f"{name}_offsets": texts.offsets}
    arrays["states_size"] = np.array(states_size, np.bool_)
    about = {"class_names": list(class_names)}
    keep(kept, lambda path: save_arrays(path, _MAGIC, about, arrays), home, MAX_CACHE_BYTES)


def _strings(arrays: dict[str, np.ndarray[Any, Any]], name: str) -> PackedStrings:
    return PackedStrings(arrays[f"{name}_buffer"], arrays[f"{name}_offsets"])
