"""The folder of a run: it has one writer at a time, and nothing that lies there is overwritten.

The writer holds a lock on the file ``.lock``, which the system takes back when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch

from detseg.engine.distributed import Group
from detseg.engine.logging.log import LOG_NAME, RECORDS_NAME, read_records
from detseg.engine.training.checkpoint import PREVIOUS_NAME, STATE_NAME
from detseg.folders import LOCK_NAME

CONFIG_NAME = "config.yaml"

_OF_A_BEGINNING = {CONFIG_NAME, LOG_NAME, RECORDS_NAME, "class_weights.json", "tensorboard"}
"""What a run that ended before its first state leaves behind: nothing that was learned."""
_NOT_SUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked worker shares the lock until it closes its copy, and may outlive the process that took it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class RunInUseError(OSError):
    """Another process writes into the folder of a run."""


class RunFolder:
    """``path`` as the folder of one run of all processes of ``group``: the main one locks it, and its errors are those
    of all. :meth:`release` gives the lock back."""

    def __init__(self, path: Path, group: Group, device: torch.device) -> None:
        self.path = path
        self._group = group
        self._device = device
        self._descriptor: int | None = None

    def release(self) -> None:
        """Let others write into the folder."""
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def require_free(self) -> None:
        """Raise unless a new run may begin here; nothing is written.

        Raises:
            FileExistsError: there is a run, or something that no run wrote.
            NotADirectoryError: it is a file.
            RunInUseError: a run is under way.
        """
        self._group.on_main(lambda: _require_free(self.path), self._device)

    def begin(self) -> None:
        """Make the folder and lock it for a new run. Raises as :meth:`require_free`."""
        self._group.on_main(self._begin, self._device)

    def resume(self) -> None:
        """Lock the folder to go on with the run in it.

        Raises:
            FileNotFoundError: there is no state to go on from.
            RunInUseError: another process writes into the folder.
        """
        self._group.on_main(self._resume, self._device)

    def _begin(self) -> None:
        _require_free(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        _require_free(self.path, is_ours=True)  # another run may have come and gone while the data was opened

    def _resume(self) -> None:
        if not (self.path / STATE_NAME).is_file():
            raise FileNotFoundError(f"{self.path} holds no {STATE_NAME}, so there is no run to resume")
        self._lock()

    def _lock(self) -> None:
        descriptor = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(descriptor)
        self._descriptor = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(self.path) from error
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            warnings.warn(
                f"{self.path}: this file system knows no locks ({error.strerror}), so a second run that writes here "
                "would not be noticed",
                stacklevel=2,
            )
        owner = f"process {os.getpid()} on {platform.node()} since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}\n"
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode("utf-8"), 0)


def _require_free(folder: Path, is_ours: bool = False) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; choose another folder with -o")
    # Nothing that a run writes is hidden but its lock.
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not names:
        return
    if not is_ours and _is_locked(folder):
        raise _in_use(folder)
    if STATE_NAME in names:
        raise FileExistsError(
            f"{folder} holds a run already; go on with --resume {folder} or choose another folder with -o"
        )
    learned = [name for name in names if name == PREVIOUS_NAME or name.endswith(".safetensors")]
    if learned or read_records(folder / RECORDS_NAME):
        what = ", ".join(learned) or RECORDS_NAME
        raise FileExistsError(
            f"{folder} holds a run ({what}) whose {STATE_NAME} is gone: it cannot be resumed and is not overwritten; "
            f"choose another folder with -o{_describe_previous(names)}"
        )
    foreign = [name for name in names if name not in _OF_A_BEGINNING or not (folder / LOCK_NAME).exists()]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise FileExistsError(
            f"{folder} is not empty ({', '.join(foreign[:3])}{more}), and nothing that lies there is overwritten; "
            "choose a new or an empty folder with -o"
        )


def _describe_previous(names: Sequence[str]) -> str:
    return f", or rename {PREVIOUS_NAME} to {STATE_NAME} and go on with --resume" if PREVIOUS_NAME in names else ""


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:  # there is none, or nobody may write
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system knows no locks, which is said when the run takes its own
        return False
    finally:
        os.close(descriptor)
    return False


def _in_use(folder: Path) -> RunInUseError:
    owner = (folder / LOCK_NAME).read_text(encoding="utf-8", errors="replace").strip() or "another process"
    return RunInUseError(f"{folder} is being written by {owner}; wait for it, or choose another folder with -o")
