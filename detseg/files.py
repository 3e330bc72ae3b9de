"""Writing files so that a reader never meets half of one. Open to every room; imports nothing of detseg."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_PREFIX = ".partial-"


class SaveError(OSError):
    """A file could not be written; whatever stood at its place before is still there."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The file is flushed to the disk before it is renamed, and the folder after. When the block fails, the temporary file
    is removed and ``path`` is as it was.

    Raises:
        SaveError: the disk is full or the folder cannot be written to; says how much is free and what was kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL_PREFIX}{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        kept = f"the file that was there before is kept: {path}" if path.exists() else "nothing was left behind"
        raise SaveError(
            f"could not write {path}: {error}; {free / 1e6:.0f} MB free in {path.parent}; {kept}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left of :func:`atomic_path` in ``folder``."""
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):
        leftover.unlink(missing_ok=True)
