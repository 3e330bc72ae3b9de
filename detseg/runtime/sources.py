"""From what a user names on the command line to an ordered list of image files."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detseg.runtime.image_header import HeaderError, read_header
from detseg.runtime.images import IMAGE_SUFFIXES


class SourceError(ValueError):
    """A source that names no image; the message says what was looked for and what is near."""


def expand_sources(sources: Iterable[str | Path]) -> list[Path]:
    """The image files that ``sources`` name, each once, in the order of the sources.

    A source is a file, a folder (its images, not those of its subfolders) or a glob (``**`` reaches subfolders). Files
    of a folder or a glob come in natural order, ``frame2`` before ``frame10``, and are taken by suffix; a file that is
    named itself may have any suffix if its content is an image.

    Raises:
        SourceError: no sources at all, or one of them is missing, holds no image or is of an unsupported format.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _expand(str(source)):
            found.setdefault(path.resolve(), path)
    if not found:
        raise SourceError("no source was given; name image files, folders or globs")
    return list(found.values())


def natural_key(path: Path | str) -> tuple[list[str | int], str]:
    """A sort key under which numbers inside names count as numbers."""
    text = str(path)
    parts: list[str | int] = list(re.split(r"([0-9]+)", text.casefold()))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts, text


def _expand(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        _require_image(path)
        return [path]
    if path.is_dir():
        images = _images_among(path.iterdir())
        if not images:
            raise SourceError(f"folder {source}: no image in it ({_suffixes()}); {_subfolder_hint(path)}")
        return images
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - may be absolute
        images = _images_among(matches)
        if not images:
            seen = f"{len(matches)} matches, but no image among them ({_suffixes()})" if matches else "nothing matches"
            raise SourceError(f"glob {source}: {seen}")
        return images
    raise SourceError(f"source {source!r} does not exist; {_nearest(path)}")


def _require_image(path: Path) -> None:
    """Refuse early what is no image by name nor by content; a damaged image is the reader's business."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return
    try:
        with path.open("rb") as stream:
            header = read_header(stream)
    except HeaderError:
        return
    if header is None:
        raise SourceError(f"file {path}: not an image, by name ({_suffixes()}) nor by content")


def _images_among(paths: Iterable[Path]) -> list[Path]:
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(images, key=natural_key)


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)


def _subfolder_hint(folder: Path) -> str:
    if any(path.is_dir() for path in folder.iterdir()):
        return f"for its subfolders use the glob {folder / '**' / '*.*'}"
    return f"it has {_listing([path.name for path in folder.iterdir()])}"


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
