"""The state of a run on disk: written atomically, the one before kept, read without running any code."""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detseg.files import SaveError, atomic_path

STATE_NAME = "state.pt"
PREVIOUS_NAME = "state.previous.pt"


def save_state(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) to ``run_dir``; keep the one before.

    The file is read back before it takes its place, so what stands under the name was complete at least once.

    Raises:
        SaveError: the disk is full or the folder cannot be written to; the state before is kept. Says how much room the
            state needs, and of which step the one before is.
    """
    path = run_dir / STATE_NAME
    try:
        with atomic_path(path) as temporary:
            try:
                torch.save(dict(state), temporary)
            except RuntimeError as error:  # torch reports a full disk as a stream error
                raise OSError(f"torch could not write the state: {error}") from error
            if torch.load(temporary, weights_only=True, map_location="cpu").keys() != state.keys():
                raise OSError("the state read back is not the state written")
            if path.exists():
                previous = run_dir / PREVIOUS_NAME
                previous.unlink(missing_ok=True)
                previous.hardlink_to(path)
    except SaveError as error:
        needed, free = _num_bytes(state) / 1e6, shutil.disk_usage(run_dir).free / 1e6
        raise SaveError(
            f"could not write {path}: {error.__cause__}; it needs {needed:.0f} MB, {free:.0f} MB are free in "
            f"{run_dir}; {_describe_kept(run_dir)}"
        ) from error


def _num_bytes(value: Any) -> int:
    """Of all tensors in ``value``."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(_num_bytes, parts))


def _describe_kept(run_dir: Path) -> str:
    if not (run_dir / STATE_NAME).exists():
        return "nothing was left behind"
    step = load_state(run_dir).get("progress", {}).get("step", "?")
    return f"the file that was there before is kept, at step {step}: make room and go on with --resume {run_dir}"


_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    zlib.error,
)
"""What reading a damaged state raises."""


def load_state(run_dir: Path) -> dict[str, Any]:
    """Read the newest state in ``run_dir``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged; names the one before, which can be put in its place.
    """
    path = run_dir / STATE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{run_dir} holds no {STATE_NAME}, so there is no run to resume")
    try:
        _require_checksums(path)
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except _DAMAGE as error:
        previous = run_dir / PREVIOUS_NAME
        hint = f"; the state before it is {previous}: rename it to {STATE_NAME} to go on from there"
        raise ValueError(f"{path} is damaged: {error}{hint if previous.exists() else ''}") from error
    return state


def _require_checksums(path: Path) -> None:
    # torch.save writes checksums, torch.load does not look at those of tensors.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
