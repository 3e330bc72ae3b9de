"""What the image files of a data set are: size, content hash, damage. Files are read in threads and never written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
        with path.open("rb") as stream:
            header = read_header(stream)
    except ImageError as error:
        return ImageState(None, digest=digest, problem=str(error).removeprefix(f"{path}: "))
    assert header is not None
    return ImageState((size[0], size[1]), header.orientation, digest)


def content_digest(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
