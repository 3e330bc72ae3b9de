"""What the image files of a data set are: size, content hash, damage. Files are read in threads and never written."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from detseg.data.findings import Finding
from detseg.data.source import images_in
from detseg.files import open_regular
from detseg.runtime.media.image_header import read_header
from detseg.runtime.media.images import ImageError, image_size, read_image


@dataclass(frozen=True, slots=True)
class ImageState:
    """One image file; ``size`` is (height, width) upright, None where ``problem`` says why it cannot be used.

    ``orientation`` is the EXIF orientation, 1 to 8; ``digest`` the SHA-256 of the file, None where there is no file.
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
    """The state of every file, read in threads; ``decode`` reads the pixels, else damage behind headers is missed."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as executor:
        states = executor.map(lambda path: inspect_image(path, decode), distinct)
        return dict(zip(distinct, states, strict=True))


def inspect_image(path: Path, decode: bool) -> ImageState:
    """The state of one file; a missing one has no digest."""
    try:
        digest = content_digest(path)
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
    known = {os.path.realpath(path) for path in listed}
    return [
        Finding("D105", str(path), f"in {folder.name}, but no split lists it")
        for folder in dict.fromkeys(folders)
        for path in images_in(folder)
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
