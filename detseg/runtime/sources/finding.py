"""From what a user names on the command line to an ordered list of files, cameras and addresses."""

from __future__ import annotations

import difflib
import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detseg.runtime.media.image_header import HeaderError, foreign_format, read_header
from detseg.runtime.media.images import IMAGE_SUFFIXES, ImageError
from detseg.runtime.media.video_container import VIDEO_SUFFIXES, read_container
from detseg.runtime.volumes.dicom import is_dicom_file, is_dicom_folder
from detseg.runtime.volumes.volume_cases import FIRST_CHANNEL, case_of
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES, describe_other_files, is_volume_path, volume_exists

SCHEMES = ("http", "https", "rtmp", "rtsp", "rtsps")
"""What the addresses of streams may begin with."""
STANDARD_INPUT = "-"
_OTHERS = {
    "volume": ((".mgz", ".mgh", ".mnc", ".par", ".rec"), VOLUME_SUFFIXES[0]),
    "image": ((".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl"), "JPEG or PNG"),
}
"""What is not read and might be meant, and what to do about it."""
_NUMBER = re.compile(r"%(0\d+)?d")


class SourceError(ValueError):
    """A source that names no file of the kind; the message says what was looked for and what is near."""


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to read: a file at ``path``, the camera of this number, or a stream at this address."""

    kind: Literal["image", "volume", "video", "camera", "stream"]
    name: str
    path: Path | None = None

    @property
    def title(self) -> str:
        """What its frames call it."""
        return f"camera{self.name}" if self.kind == "camera" else self.name


OnError = Callable[[Source, ImageError], None]
"""Is told of a source that cannot be read, and why."""


def find_sources(
    names: Iterable[str | Path],
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    *,
    allow_url: bool = False,
    listing: Iterable[str] = (),
    on_error: Callable[[str, SourceError], None] | None = None,
    num_files: int = 1,
) -> list[Source]:
    """What ``names`` name, each once, in their order.

    Besides what :func:`expand_sources` takes, for images also videos; an image sequence with its number as in printf
    (``frame_%04d.png``); a camera by its number (``0``) unless there is a file of this name; with ``allow_url`` the
    address of a stream; ``-`` stands for the lines of ``listing``, each a source again, without those that are empty or
    begin with ``#`` and name no file. Volumes whose channels may lie in ``num_files`` files are named by the first. A
    name that names nothing goes to ``on_error``, and the next one follows, as long as there is one that does.

    Raises:
        SourceError: as in :func:`expand_sources`, for an address without ``allow_url`` or of another scheme, and for a
            number or an address where volumes are wanted; with ``on_error`` only if nothing is left.
    """
    found: dict[str, Source] = {}
    failed: list[tuple[str, SourceError]] = []
    looked_for = tuple(suffixes) if tuple(suffixes) == VOLUME_SUFFIXES else (*suffixes, *VIDEO_SUFFIXES)
    for name in _names(names, listing):
        try:
            for source in _sources(name, looked_for, allow_url):
                if num_files > 1 and source.path is not None and source.kind == "volume":
                    source = _first_channel(source.path)
                key = source.name if source.path is None else os.path.realpath(source.path)
                found.setdefault(key, source)
        except SourceError as error:
            if on_error is None:
                raise
            failed.append((name, error))
    if not found:
        if failed:
            others = f"; nor can {len(failed) - 1} other sources be read" if len(failed) > 1 else ""
            raise SourceError(f"{failed[0][1]}{others}") from failed[0][1]
        raise SourceError("no source was given; name files, folders, globs, cameras or streams")
    for name, fault in failed:
        assert on_error is not None
        on_error(name, fault)
    return list(found.values())


def _first_channel(path: Path) -> Source:
    """The case that the file ``path`` is a channel of, by the file of its first channel, where there is such a one."""
    case = case_of(path)
    if case is not None and case[1] > 0:
        beside = (path.with_name(f"{case[0]}{FIRST_CHANNEL}{suffix}") for suffix in (*VOLUME_SUFFIXES, ""))
        path = next(filter(volume_exists, beside), path)
    return Source("volume", str(path), path)


def _names(names: Iterable[str | Path], listing: Iterable[str]) -> Iterator[str]:
    for name in map(str, names):
        if not name:
            raise SourceError("a source has no name; name a file, or . for the current folder")
        if name == STANDARD_INPUT:
            yield from filter(None, map(_listed, listing))
        else:
            yield name


def _listed(line: str) -> str:
    """The name in a ``line`` of a list. Names may have spaces around them, and begin with the sign of a comment."""
    line = line.rstrip("\r\n")
    if os.path.lexists(line):
        return line
    return "" if line.lstrip().startswith("#") else line.strip()


def _sources(name: str, suffixes: tuple[str, ...], allow_url: bool) -> Iterator[Source]:
    scheme = name.partition("://")[0] if "://" in name and not os.path.lexists(name) else ""
    if scheme or (name.isdecimal() and not os.path.lexists(name)):
        if suffixes == VOLUME_SUFFIXES:
            raise SourceError(f"source {name}: volumes are read from files only")
        yield _stream(name, scheme.lower(), allow_url) if scheme else Source("camera", name)
        return
    try:
        for path in _expand(name, _kind_of(suffixes)):
            yield Source(_file_kind(path, is_named=str(path) == str(Path(name).expanduser())), str(path), path)
    except OSError as error:
        raise SourceError(f"source {name}: {error.strerror}") from error


def _stream(address: str, scheme: str, allow_url: bool) -> Source:
    if scheme not in SCHEMES:
        raise SourceError(f"source {address}: cannot open {scheme}://; allowed are {', '.join(SCHEMES)}")
    if not allow_url:
        raise SourceError(f"source {address}: network addresses are opened only with --allow-url")
    return Source("stream", address)


def _file_kind(path: Path, is_named: bool) -> Literal["image", "volume", "video"]:
    """By the content of a file that is named itself; many in a folder are opened once only, when they are read."""
    if is_volume_path(path):
        return "volume"
    content = content_of(path) if is_named else None
    return content or ("video" if path.name.lower().endswith(VIDEO_SUFFIXES) else "image")


def expand_sources(sources: Iterable[str | Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files that ``sources`` name, each once, in the order of the sources: images, or volumes where ``suffixes``
    are ``VOLUME_SUFFIXES``; folders with a DICOM series count as files of these.

    A source is a file, a folder (its files, not those of its subfolders) or a glob (``**`` reaches subfolders). Files
    of a folder or a glob come in natural order, ``frame2`` before ``frame10``, and are taken by the end of their name;
    a file that is named itself may have any name if its content is an image. Names that begin with a dot are passed
    over, such as ``._a.png``, which macOS leaves beside ``a.png`` on foreign disks; so are files of other formats in a
    folder, with a warning.

    Raises:
        SourceError: no sources at all, or one of them is missing, holds no such file or is of an unsupported format.
    """
    kind = _kind_of(tuple(suffixes))
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expand(str(source), kind):
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise SourceError(f"no source was given; name {kind.name} files, folders or globs")
    return list(found.values())


def natural_key(path: Path | str) -> tuple[list[str | int], str]:
    """A sort key under which numbers inside names count as numbers."""
    text = str(path)
    parts: list[str | int] = list(re.split(r"([0-9]+)", text.casefold()))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts, text


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is looked for: an "image" or a "volume", and how the names of its files end, in lower case."""

    name: str
    suffixes: tuple[str, ...]

    @property
    def listed_suffixes(self) -> str:
        return ", ".join(self.suffixes)

    def names(self, path: Path) -> bool:
        """Whether the name of ``path`` is one of this kind. A name that is nothing but a suffix is not."""
        name = path.name.lower()
        return name.endswith(self.suffixes) and name not in self.suffixes

    def among(self, paths: Iterable[Path]) -> list[Path]:
        """The files of this kind among ``paths``, in natural order; also links that lead nowhere, which reading tells
        of."""
        visible = [path for path in paths if not path.name.startswith(".")]
        files = [path for path in visible if self.names(path) and not path.is_dir()]
        if self.name == "volume":
            files += filter(is_dicom_folder, visible)
        return sorted(files, key=natural_key)


def _kind_of(suffixes: tuple[str, ...]) -> _Kind:
    if suffixes == VOLUME_SUFFIXES:
        return _Kind("volume", suffixes)
    return _Kind("image or video" if ".mp4" in suffixes else "image", suffixes)


def _expand(source: str, kind: _Kind) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        _require_kind(path, kind)
        return [path]
    if path.is_dir():
        inside = list(path.iterdir())
        files = kind.among(inside)
        if kind.name == "volume" and is_dicom_folder(path):
            files.insert(0, path)
        other_suffixes, advice = _OTHERS["volume" if kind.name == "volume" else "image"]
        others = sorted(one.name for one in inside if one.name.lower().endswith(other_suffixes))
        if files and others:
            warnings.warn(
                f"{source}: {len(others)} {'volumes' if kind.name == 'volume' else 'images'} of other formats are "
                f"passed over ({_listing(others)}); convert them to {advice}",
                stacklevel=2,
            )
        if not files:
            hint = _subfolder_hint(path, kind)
            raise SourceError(f"folder {source}: no {kind.name} in it ({kind.listed_suffixes}); {hint}")
        return files
    if number := _NUMBER.search(path.name):
        return _sequence(path, number, kind)
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - may be absolute
        files = kind.among(matches)
        if not files:
            among = f"{len(matches)} matches, but no {kind.name} among them ({kind.listed_suffixes})"
            raise SourceError(f"glob {source}: {among if matches else 'nothing matches'}")
        return files
    if os.path.lexists(path):
        raise SourceError(
            f"source {source!r} is neither a file nor a folder, but a pipe, a device, or a link that leads nowhere"
        )
    raise SourceError(f"source {source!r} does not exist; {_nearest(path)}")


def _sequence(path: Path, number: re.Match[str], kind: _Kind) -> list[Path]:
    """The files whose names are ``path`` with a number in place of the ``%04d``."""
    digits = rf"\d{{{int(number[1])},}}" if number[1] else r"\d+"
    pattern = re.compile(re.escape(path.name[: number.start()]) + digits + re.escape(path.name[number.end() :]))
    files = kind.among(file for file in path.parent.glob("*") if pattern.fullmatch(file.name))
    if not files:
        raise SourceError(f"image sequence {path}: no file has such a name; {_nearest(path)}")
    return files


def _require_kind(path: Path, kind: _Kind) -> None:
    """Refuse early what is no image by name nor by content, or no volume by name; a damaged file is the reader's
    business."""
    if kind.names(path):
        return
    if kind.name == "volume":
        advice = ""
        if path.suffix.lower() == ".img":
            advice = "; header and voxels in two files: name the header, .hdr"
        elif is_dicom_file(path):
            advice = "; it is DICOM: name the folder with the whole series"
        raise SourceError(f"file {path}: not a volume, by name ({kind.listed_suffixes}){advice}")
    content = content_of(path)
    if content != "image" and not ("video" in kind.name and content == "video"):
        known = known_as(path)
        raise SourceError(
            f"file {path}: not an {kind.name}, by name ({kind.listed_suffixes}) nor by content"
            + (f"; it is {known}" if known else "")
        )


def _subfolder_hint(folder: Path, kind: _Kind) -> str:
    inside = list(folder.iterdir())
    if kind.name == "volume" and not any(_has_volume_files(path) for path in inside):
        return describe_other_files(folder)
    if any(path.is_dir() for path in inside):
        return f"for its subfolders use the glob {folder / '**' / '*.*'}"
    return f"it has {_listing([path.name for path in folder.iterdir()])}"


def _has_volume_files(folder: Path) -> bool:
    return folder.is_dir() and any(one.name.lower().endswith(VOLUME_SUFFIXES) for one in folder.iterdir())


def _nearest(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    missing = path.relative_to(parent).parts[0]
    names = sorted((entry.name for entry in parent.iterdir()), key=natural_key)
    near = difflib.get_close_matches(missing, names, n=3)
    where = f"in {parent.absolute()} there is no {missing!r}"
    return f"{where}; near are {', '.join(near)}" if near else f"{where}, there are {_listing(names)}"


def _listing(names: Sequence[str], limit: int = 5) -> str:
    if not names:
        return "no files"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names, key=natural_key)[:limit]) + more


def content_of(path: Path | None) -> Literal["image", "video"] | None:
    """What the first bytes of the file ``path`` say that it is; None where it is neither, or cannot be read."""
    if path is None:
        return None
    try:
        if read_container(path) is not None:
            return "video"
        with path.open("rb") as stream:
            return None if read_header(stream) is None else "image"
    except HeaderError:  # a damaged image is one
        return "image"
    except OSError:
        return None


def known_as(path: Path) -> str | None:
    """The name of its format, if that is known and not supported, with what to do about it."""
    with path.open("rb") as stream:
        return foreign_format(stream.read(16))
