"""From sources to frames: decoded ahead in threads, in order, and what cannot be read is told and passed over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, cast

from detseg.runtime.media.frames import Frame
from detseg.runtime.media.images import ImageError
from detseg.runtime.media.sources import Source
from detseg.runtime.media.video_reader import Section, read_stream, read_video

OnError = Callable[[Source, ImageError], None]

_READERS = min(4, os.cpu_count() or 1)
_AHEAD = {"image": 2 * _READERS, "volume": 1}
"""Files that are read before they are asked for; volumes can be large."""


def read_frames(
    sources: Iterable[Source | Frame],
    read: Callable[[Any], Any],
    section: Section | None = None,
    on_error: OnError | None = None,
) -> Iterator[Frame]:
    """The frames of ``sources``, in their order; image and volume files through ``read``, of videos the ``section``,
    and those that are there already.

    Files are decoded by a few threads, a few files ahead of what is asked for. A source that cannot be read,
    or not to its end, goes to ``on_error``, and the next one follows.

    Raises:
        ImageError: a source cannot be read, and ``on_error`` is None.
    """
    for kind, group in groupby(sources, key=_kind):
        match kind:
            case "file":
                yield from _read_files(cast(Iterable[Source], group), read, on_error)
            case "video":
                for source in cast(Iterable[Source], group):
                    yield from _read_video(source, section, on_error)
            case "frame":
                yield from cast(Iterable[Frame], group)


def _kind(source: Source | Frame) -> str:
    if isinstance(source, Frame):
        return "frame"
    return "file" if source.kind in ("image", "volume") else "video"


def _read_video(source: Source, section: Section | None, on_error: OnError | None) -> Iterator[Frame]:
    try:
        if source.path is not None:
            yield from read_video(source.path, section)
        else:
            yield from read_stream(int(source.name) if source.kind == "camera" else source.name, section)
    except ImageError as error:
        if on_error is None:
            raise
        on_error(source, error)


def _read_files(sources: Iterable[Source], read: Callable[[Any], Any], on_error: OnError | None) -> Iterator[Frame]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        ahead: deque[tuple[Source, Future[Any]]] = deque()
        try:
            for source in sources:
                ahead.append((source, pool.submit(read, source.path)))
                if len(ahead) > _AHEAD[source.kind]:
                    yield from _decoded(*ahead.popleft(), on_error)
            while ahead:
                yield from _decoded(*ahead.popleft(), on_error)
        finally:
            for _, future in ahead:
                future.cancel()


def _decoded(source: Source, future: Future[Any], on_error: OnError | None) -> Iterator[Frame]:
    try:
        image = future.result()
    except ImageError as error:
        if on_error is None:
            raise
        on_error(source, error)
    else:
        yield Frame(image, source.name, source.path)
