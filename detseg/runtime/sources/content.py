"""What a file is by its content, whatever its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from detseg.runtime.media.image_header import HeaderError, foreign_format, read_header
from detseg.runtime.media.video_container import read_container


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
