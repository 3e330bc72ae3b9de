"""Folders for the results of runs: each has one writer, and one that holds results is left for the next number.

Open to every room; imports nothing of detseg but :mod:`detseg.files`.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from detseg.files import printable

LOCK_NAME = ".lock"
"""The file that is locked in a folder that only one process may write into."""


def free_folder(wanted: Path, marks: Sequence[str], *, overwrite: bool = False) -> Path:
    """The folder for the results of a run: ``wanted``, or where that holds the results of another run, a file with one
    of the names ``marks``, then ``wanted-2`` and so on, unless ``overwrite``.

    A folder that holds only other files is taken as it is: :func:`require_replaceable` is for each file.
    """
    free = (
        folder for folder in numbered(wanted) if overwrite or not any(os.path.lexists(folder / mark) for mark in marks)
    )
    return next(free)


@contextmanager
def claimed_folder(
    wanted: Path, marks: Sequence[str], require: Callable[[Path], None], *, overwrite: bool = False
) -> Iterator[Path]:
    """:func:`free_folder`, made and locked while the block lasts, so that of runs at one time each has its own. It is
    removed where it stays empty. ``require`` raises where nothing may be written into the folder.

    Raises:
        ValueError: with ``overwrite``, and another run is at work there.
    """
    for folder in numbered(wanted):
        if not overwrite and any(os.path.lexists(folder / mark) for mark in marks):
            continue
        require(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder / LOCK_NAME)
        if lock is None and overwrite:
            raise ValueError(f"another process is at work in {printable(folder)}; wait for it, or name another folder")
        if lock is None:
            continue
        try:
            # It may have got its results between the first look and the lock.
            if not overwrite and any(os.path.lexists(folder / mark) for mark in marks):
                continue
            yield folder
            return
        finally:
            lock.close()
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def new_folder(wanted: Path) -> Iterator[Path]:
    """``wanted``, or the next of ``wanted-2``, ``wanted-3``, ... behind all that are there, made here and so nobody
    else's; it is removed where it stays empty."""
    had_parent = wanted.parent.exists()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(wanted.name) + r"-(\d{1,9})")
    taken = [int(match[1]) for path in wanted.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    behind = (wanted.with_name(f"{wanted.name}-{number}") for number in count(max(taken, default=1) + 1))
    try:
        for folder in chain([wanted], behind):
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            try:
                yield folder
                return
            finally:
                with suppress(OSError):  # not empty
                    folder.rmdir()
    finally:
        if not had_parent:
            with suppress(OSError):
                wanted.parent.rmdir()


def numbered(wanted: Path) -> Iterator[Path]:
    """``wanted``, then ``wanted-2``, ``wanted-3``, ... without end."""
    yield wanted
    named = Path(os.path.normpath(wanted.absolute())) if not wanted.name or wanted.name == ".." else wanted
    for number in count(2):
        yield named.with_name(f"{named.name}-{number}")


class _Lock:
    """A lock on the file ``path``, which the system takes back when the process ends, however it ends."""

    def __init__(self, path: Path, descriptor: int, is_new: bool) -> None:
        self._path, self._descriptor, self._is_new = path, descriptor, is_new

    def close(self) -> None:
        """Give it back; the file goes where there was none before."""
        if self._is_new:
            self._path.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # forked workers share it
        os.close(self._descriptor)


def _lock(path: Path) -> _Lock | None:
    """Lock ``path``; None where another has it. A file system that knows no locks gives one to everybody."""
    while True:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return _Lock(path, descriptor, is_new)
        os.close(descriptor)  # whoever had it has just removed the file
