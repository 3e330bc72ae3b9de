"""Reading what are files and nothing else, and writing them so that a reader never meets half of one and nothing of the
user's is replaced.

Open to every room; imports nothing of detseg.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL_PREFIX = ".partial-"

_MAX_NAME_BYTES = 255
"""What the file systems in use allow for one name."""
_MAX_LINKS = 40
_MAX_REPORT_BYTES = 64_000_000


class SaveError(OSError):
    """A file could not be written; whatever stood at its place before is still there."""

    @property
    def disk_is_full(self) -> bool:
        """Whether no other file will do better."""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def save_errors(path: Path) -> Iterator[None]:
    """Turns errors of the system while ``path`` is written into :class:`SaveError`, with the room that is left."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        free = _free_bytes(path.parent)
        kept = f"the file that was there before is kept: {path}" if path.exists() else "nothing was left behind"
        raise SaveError(
            f"could not write {path}: {error}; {free / 1e6:.0f} MB free in {path.parent}; {kept}"
        ) from error


_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe that nobody writes to would be waited for when it is opened, without end."""


def open_regular(path: Path | str) -> io.BufferedReader:
    """The file ``path``, opened to read its bytes; links are followed.

    Raises:
        OSError: it cannot be opened, or is no regular file: pipes and devices may be waited for without end, and some
            never end.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_WAITING | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file but a pipe, a socket or a device", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str) -> bytes:
    """What is in the regular file ``path``. Raises OSError as :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text in the regular file ``path``, with line ends as ``\\n``; ``errors`` as of ``open``.

    Raises:
        OSError: as :func:`open_regular`.
        UnicodeDecodeError: the file is not in this ``encoding``.
    """
    with io.TextIOWrapper(open_regular(path), encoding=encoding, errors=errors) as file:
        return file.read()


def read_any_text(path: Path | str, errors: str = "strict") -> str:
    """The text in the regular file ``path``, in UTF-8 or, where a byte order mark says so, UTF-16, as programs on
    Windows write it; without that mark. ``errors`` as of ``open``.

    Raises:
        OSError: as :func:`open_regular`.
        UnicodeDecodeError: the file is in neither.
    """
    data = read_bytes(path)
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", errors)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The file is flushed to the disk before it is renamed, and the folder after. When the block fails, the temporary file
    is removed and ``path`` is as it was. Its name is UTF-8 and ends like that of ``path``.

    Raises:
        SaveError: the disk is full or the folder cannot be written to; says how much is free and what was kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(**_partial_name(path))
    os.close(handle)
    temporary = Path(name)
    try:
        with save_errors(path):
            yield temporary
            put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Let ``written``, a file in the same folder that is whole, take the place of ``path``; all is flushed to the
    disk.

    Raises:
        SaveError: it cannot.
    """
    with save_errors(path):
        written.chmod(0o666 & ~_umask())
        _flush_to_disk(written)
        written.replace(path)
        _flush_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all; bytes that are no text, as file names may have them,
    are written out as in JSON: ``\\udce4``."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def fitting_name(stem: str, suffix: str) -> str:
    """``stem`` with ``suffix``, the stem cut where a file system would refuse the name as too long."""
    room = _MAX_NAME_BYTES - len(os.fsencode(suffix))
    if len(os.fsencode(stem)) <= room:
        return stem + suffix
    return _cut(stem, room) + suffix


def printable(text: object, keep: str = "") -> str:
    """``text``, such as a path, as it can be shown anywhere: what would act on a terminal, what is not seen, and bytes
    of file names that are not UTF-8 are written out, such as ``\\x1b``; not so the characters ``keep``."""
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(one if _is_seen(one) or one in keep else _written_out(one) for one in shown)


def storable(text: str) -> str:
    """``text`` as any file in UTF-8 can hold it: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left of :func:`atomic_path` in ``folder``."""
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):
        leftover.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The folder for what can be made again: ``$DETSEG_CACHE``, or ``detseg`` where the system keeps such things."""
    chosen = os.environ.get("DETSEG_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else cache_home(sys.platform, os.environ) / "detseg"


def home_folder() -> Path:
    """The user's home.

    Raises:
        FileNotFoundError: the system knows of none, as in containers of users without a name.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise FileNotFoundError(
            errno.ENOENT, "there is no home folder: set HOME, or DETSEG_CACHE and DETSEG_WEIGHTS", "~"
        ) from error


def cache_home(platform: str, environment: Mapping[str, str]) -> Path:
    """Where ``platform``, in the words of ``sys.platform``, keeps what programs can make again. Raises as
    :func:`home_folder`."""
    if platform == "darwin":
        return home_folder() / "Library" / "Caches"
    variable, usual = ("LOCALAPPDATA", "AppData/Local") if platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    chosen = Path(environment.get(variable, ""))
    return chosen if chosen.is_absolute() else home_folder() / usual


def require_apart(folder: Path, read: Iterable[Path | str]) -> None:
    """Refuse to write into ``folder`` where one of ``read``, files or folders that are read from, lies: as they are
    named, or wherever their links lead.

    Raises:
        ValueError: it would be written among what is read.
    """
    ReadFrom().require_apart(folder, read)


class ReadFrom:
    """The folders that were read from, each looked up once, for checks of many files: see :func:`require_apart`."""

    def __init__(self) -> None:
        self._resolved: dict[Path, Path] = {}

    def require_apart(self, folder: Path, read: Iterable[Path | str]) -> None:
        """Raise ValueError where one of ``read`` lies in ``folder``."""
        target = self._resolve(Path(folder))
        for path in map(Path, read):
            if any(self._resolve(place) == target for place in self._places(path)):
                raise ValueError(
                    f"the results would be written into {printable(folder)}, where the source "
                    f"{printable(path)} lies; name another output folder"
                )

    def _places(self, path: Path) -> Iterator[Path]:
        """The folders that reading ``path`` leads through."""
        for _ in range(_MAX_LINKS):
            yield path.parent
            try:
                path = path.parent / path.readlink()
            except OSError:  # no link
                break
        if path.is_dir():
            yield path

    def _resolve(self, folder: Path) -> Path:
        resolved = self._resolved.get(folder)
        if resolved is None:
            resolved = self._resolved[folder] = Path(os.path.realpath(folder))
        return resolved


def require_possible(path: Path) -> None:
    """Refuse a place for results at which nothing can be written, before any work is done for it: below what is no
    folder, behind a link that leads to itself or nowhere, or in a folder that is closed.

    Raises:
        OSError: names what is in the way.
    """
    for place in (path.absolute(), *path.absolute().parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink() and place != path.absolute():
                raise FileNotFoundError(errno.ENOENT, "is a link that leads nowhere", str(place)) from None
            continue
        if place == path.absolute():
            return  # what is there is looked at by others
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, "is no folder, and results were to be written there", str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "nothing can be written into this folder", str(place))
        return


def require_replaceable(
    path: Path, *, overwrite: bool = False, is_ours: Callable[[Path], bool] = lambda path: False
) -> None:
    """Refuse to write over what lies at ``path``, unless its content ``is_ours``: what this program has written there
    before.

    Raises:
        ValueError: something of the user's lies there, and ``overwrite`` is False.
    """
    if overwrite or not os.path.lexists(path):
        return
    if path.is_file() and not path.is_symlink() and is_ours(path):
        return
    raise ValueError(
        f"{printable(path)} is there already and not of a kind that is replaced; name another place, or --overwrite"
    )


def holds_keys(path: Path, *names: str) -> bool:
    """Whether the file ``path`` is a JSON object with all of ``names``: what tells reports of this program."""
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            return False
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= set(names)


def _is_seen(character: str) -> bool:
    # Joiners are part of words and of emojis.
    return character.isprintable() or unicodedata.category(character) == "Zs" or character in "\u200c\u200d"


def _written_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, as Python holds it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _partial_name(path: Path) -> dict[str, Any]:
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""
    room = _MAX_NAME_BYTES - len(PARTIAL_PREFIX) - len(os.fsencode(suffix)) - 16
    return {"dir": path.parent, "prefix": f"{PARTIAL_PREFIX}{_cut(path.stem, room)}-", "suffix": _cut(suffix, 32)}


def _cut(text: str, num_bytes: int) -> str:
    """The beginning of the name ``text``, no more than ``num_bytes`` long, without what is not UTF-8; as a name of this
    file system, whatever the encoding of the process."""
    return os.fsdecode(os.fsencode(text)[:num_bytes].decode("utf-8", "ignore").encode("utf-8"))


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


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
