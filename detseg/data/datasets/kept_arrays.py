"""Arrays that were made once, in files of the user's cache folder that processes share, and never in a data set."""

from __future__ import annotations

import json
import mmap
import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from detseg.files import atomic_path

SUFFIX = ".columns"

_ALIGNMENT = 64


def load_arrays(kept: Path, magic: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]] | None:
    """What :func:`save_arrays` wrote to ``kept``, the arrays as views of the file, which nobody can change; None where
    there is nothing, or it is damaged, or of another version."""
    try:
        with kept.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not there, or empty
        return None
    with suppress(OSError):  # that of another user is read all the same
        os.utime(kept)
    header_end = len(magic) + 8
    if buffer[: len(magic)] != magic:
        return None
    start = header_end + int.from_bytes(buffer[len(magic) : header_end], "little")
    view = memoryview(buffer)
    try:
        header: dict[str, Any] = json.loads(view[header_end:start].tobytes())
        if header["num_bytes"] != len(buffer) - start or header["crc32"] != zlib.crc32(view[start:]):
            return None
        arrays = {
            name: np.frombuffer(buffer, dtype, int(np.prod(shape)), start + offset).reshape(shape)
            for name, dtype, shape, offset in header["arrays"]
        }
    except (ValueError, KeyError, TypeError):
        return None
    return header, arrays


def save_arrays(kept: Path, magic: bytes, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write ``arrays``, and what JSON can say ``about`` them, to ``kept``, whole or not at all. ``magic`` are the bytes
    with which files of this kind and version begin. Raises SaveError."""
    table, parts, position, checksum = [], [], 0, 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        content += b"\0" * (-len(content) % _ALIGNMENT)
        table.append((name, array.dtype.str, array.shape, position))
        position += len(content)
        checksum = zlib.crc32(content, checksum)
        parts.append(content)
    header = json.dumps({**about, "arrays": table, "num_bytes": position, "crc32": checksum}).encode()
    header += b" " * (-(len(magic) + 8 + len(header)) % _ALIGNMENT)
    with atomic_path(kept) as temporary, temporary.open("wb") as file:
        file.writelines([magic, len(header).to_bytes(8, "little"), header, *parts])


def keep(kept: Path, save: Callable[[Path], None], home: Path, max_bytes: int) -> None:
    """Let ``save`` write ``kept``, unless that is in the data set ``home``, and leave ``max_bytes`` in its folder at
    the most; where that cannot be done, a warning says so, for nothing depends on it."""
    if kept.resolve().is_relative_to(home.resolve()):
        reason = f"{kept.parent} is inside the data set {home}, which is never written to"
    else:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save(kept)
            trim(kept.parent, max_bytes)
            return
        except OSError as error:
            reason = str(error)
    warnings.warn(
        f"the annotations were read, but are not kept for the next time: {reason}; DETSEG_CACHE names another folder",
        stacklevel=3,
    )


def trim(folder: Path, max_bytes: int) -> None:
    """Remove kept files, those first that were not used for longest, until they have ``max_bytes`` at the most."""
    kept = []
    for path in folder.glob(f"*{SUFFIX}"):
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
