"""What the image files of a data set are: size, content hash, damage. Files are read in threads and never written."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from detseg.data.findings import Finding
from detseg.data.source import images_in
from detseg.files import open_regular
from detseg.runtime.media.image_header import read_header
from detseg.runtime.media.images import ImageError, image_size, read_image

_AT_ONCE = 1024
"""Files that wait for a thread."""
_NUM_END_BYTES = 4096
"""Bytes at either end of a file that tell most apart."""


@dataclass(frozen=True, slots=True)
class ImageState:
    """One image file; ``size`` is (height, width) upright, None where ``problem`` says why it cannot be used.

    ``orientation`` is the EXIF orientation, 1 to 8; ``digest`` what only files of the same content have in common, None
    where there is no file.
    """

    size: tuple[int, int] | None
    orientation: int = 1
    digest: str | None = None
    problem: str | None = None

    @property
    def stored_size(self) -> tuple[int, int] | None:
        """Height and width of the pixels as stored, before the orientation is applied."""
        return self.size[::-1] if self.size is not None and self.orientation >= 5 else self.size


def inspect_images(paths: Iterable[Path], decode: bool, num_threads: int | None = None) -> dict[Path, ImageState]:
    """The state of every file, read in threads, with a bar on terminals.

    ``decode`` reads the pixels; else damage behind headers is missed, and a file is read whole only where another of
    the same size begins and ends like it.
    """
    distinct = list(dict.fromkeys(paths))
    states: dict[Path, ImageState] = {}
    bar = tqdm(total=len(distinct), desc="look at images", unit="image", disable=None, leave=False)
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as executor, bar:
        # Not all at once: what waits takes memory too.
        for first in range(0, len(distinct), _AT_ONCE):
            some = distinct[first : first + _AT_ONCE]
            found = executor.map(lambda path: inspect_image(path, decode), some)
            for path, state in zip(some, found, strict=True):
                states[path] = state
                bar.update()
        if not decode:
            _tell_apart(states, executor)
    return states


def _tell_apart(states: dict[Path, ImageState], executor: ThreadPoolExecutor) -> None:
    """Give those of ``states`` that seem to be equal the digest of their whole content; links to one file are equal."""
    seeming: dict[str, list[Path]] = defaultdict(list)
    for path, state in states.items():
        if state.digest is not None:
            seeming[state.digest].append(path)
    for alike in seeming.values():
        if len(alike) < 2:
            continue
        files: dict[tuple[int, int], list[Path]] = defaultdict(list)
        for path in alike:
            status = path.stat()
            files[status.st_dev, status.st_ino].append(path)
        if len(files) > 1:
            digests = executor.map(content_digest, [links[0] for links in files.values()])
            for links, digest in zip(files.values(), digests, strict=True):
                for path in links:
                    states[path] = replace(states[path], digest=digest)


def inspect_image(path: Path, decode: bool) -> ImageState:
    """The state of one file; a missing one has no digest. Without ``decode`` the digest is that of the ends."""
    try:
        digest = content_digest(path) if decode else _digest_of_ends(path)
    except OSError as error:
        return ImageState(None, problem=f"cannot be read: {error.strerror}")
    try:
        size = read_image(path).shape[:2] if decode else image_size(path)
        with open_regular(path) as stream:
            header = read_header(stream)
    except ImageError as error:
        return ImageState(None, digest=digest, problem=str(error).removeprefix(f"{path}: "))
    assert header is not None
    return ImageState((size[0], size[1]), header.orientation, digest)


def content_digest(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_of_ends(path: Path) -> str:
    """The size of a file with the SHA-256 of its first and last bytes. Raises OSError."""
    with open_regular(path) as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(stream.read(_NUM_END_BYTES))
        stream.seek(max(0, num_bytes - _NUM_END_BYTES))
        digest.update(stream.read(_NUM_END_BYTES))
    return f"{num_bytes}:{digest.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Annotated:
    """An image as annotated in ``source``, by the entries ``ids``; ``size`` is the (height, width) that this is for,
    None where it does not say so. ``what`` it is called in messages. ``is_upright``: its boxes are those of the upright
    image, whatever size it states."""

    path: Path
    source: Path
    size: tuple[int, int] | None
    what: str
    ids: tuple[int | str, ...] = ()
    is_upright: bool = False


def check_images(entries: Sequence[Annotated], states: Mapping[Path, ImageState], split: str) -> Iterator[Finding]:
    """The findings D101, D102, D103 and D106 about the images of ``split``."""
    for path, count in Counter(entry.path for entry in entries).items():
        if count > 1:
            yield Finding("D106", str(path), f"{count} entries are about this image", (), split)
    for entry in entries:
        state, file = states[entry.path], str(entry.path)
        if state.digest is None:
            yield Finding("D101", file, f"{state.problem} (annotated in {entry.source.name})", (), split)
        elif state.size is None:
            yield Finding("D102", file, str(state.problem), (), split)
        elif entry.size is not None and entry.size != state.size:
            yield Finding("D103", file, _describe_mismatch(entry, state), entry.ids, split)


def find_unlisted(folders: Iterable[Path], listed: Iterable[Path]) -> list[Finding]:
    """The findings D105 about the images in ``folders`` that are not among those ``listed``."""
    names = set(listed)
    # Most are listed by the very name; to follow the links of all of them takes much longer.
    others = [(folder, path) for folder in dict.fromkeys(folders) for path in images_in(folder) if path not in names]
    known = {os.path.realpath(path) for path in names} if others else set()
    return [
        Finding("D105", str(path), f"in {folder.name}, but no split lists it")
        for folder, path in others
        if os.path.realpath(path) not in known
    ]


def _describe_mismatch(entry: Annotated, state: ImageState) -> str:
    assert state.size is not None
    assert entry.size is not None
    (height, width), (annotated_height, annotated_width) = state.size, entry.size
    message = f"the image is {width}x{height}, the {entry.what} is for {annotated_width}x{annotated_height}"
    if entry.is_upright:
        return (
            f"{message}: its EXIF orientation {state.orientation} turns the image; the boxes are those of the upright "
            f"image, only width and height are not: write {width} and {height}"
        )
    if entry.size == state.stored_size:
        return (
            f"{message}: its EXIF orientation {state.orientation} turns the image, and the annotation is for the "
            f"pixels before that; annotate the upright image, or store the image without the orientation"
        )
    if entry.size == state.size[::-1]:
        return f"{message}: the sides are swapped, and no EXIF orientation of the file explains it"
    return message
