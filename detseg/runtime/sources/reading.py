"""The frames of sources: files are read ahead in threads, and what cannot be read is told."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, cast

import cv2

from detseg.runtime.media.decode_budget import WaitingRoom
from detseg.runtime.media.images import ImageError, image_size
from detseg.runtime.sources.finding import OnError, Source, content_of
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.video_reader import Section, read_stream, read_video
from detseg.runtime.volumes.volume_cases import case_name

_READERS = min(4, os.cpu_count() or 1)
_AHEAD = {"image": 2 * _READERS, "volume": 1}
"""Files that are read before they are asked for; volumes can be large."""
_FAULTS = (ImageError, OSError, MemoryError, cv2.error)
"""What reading one source may raise without a fault of ours."""


def read_frames(
    sources: Iterable[Source | Frame],
    read: Callable[[Any], Any],
    section: Section | None = None,
    on_error: OnError | None = None,
    given_up: Container[str] = (),
    max_ahead: int | None = None,
) -> Iterator[Frame]:
    """The frames of ``sources``, in their order; image and volume files through ``read``, of videos the ``section``,
    and those that are there already.

    Files are decoded by a few threads, a few files ahead of what is asked for. A source that cannot be read, or not to
    its end, goes to ``on_error``, and the next one follows. ``given_up``: videos and streams, by title, of which no
    more frames are wanted; it may grow meanwhile. ``max_ahead``: how many files at most are decoded before they are
    asked for.

    Raises:
        ImageError: a source cannot be read, and ``on_error`` is None.
    """
    for kind, group in groupby(sources, key=_kind):
        match kind:
            case "file":
                yield from _read_files(cast(Iterable[Source], group), read, section, on_error, given_up, max_ahead)
            case "video":
                for source in cast(Iterable[Source], group):
                    yield from _read_video(source, read, section, on_error, given_up)
            case "frame":
                yield from cast(Iterable[Frame], group)


def _kind(source: Source | Frame) -> str:
    if isinstance(source, Frame):
        return "frame"
    return "file" if source.kind in ("image", "volume") else "video"


def _read_video(
    source: Source,
    read: Callable[[Any], Any],
    section: Section | None,
    on_error: OnError | None,
    given_up: Container[str],
) -> Iterator[Frame]:
    if source.path is not None and content_of(source.path) == "image":
        yield from _decoded(source, *_timed(read, source.path), on_error)
        return
    if source.path is not None:
        frames = read_video(source.path, section)
    else:
        frames = read_stream(int(source.name) if source.kind == "camera" else source.name, section)
    try:
        yield from takewhile(lambda frame: frame.source not in given_up, frames)
    except _FAULTS as error:
        _tell(source, error, on_error)


def _read_files(
    sources: Iterable[Source],
    read: Callable[[Any], Any],
    section: Section | None,
    on_error: OnError | None,
    given_up: Container[str],
    max_ahead: int | None,
) -> Iterator[Frame]:
    process, room = os.getpid(), WaitingRoom()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        ahead: deque[tuple[int, Source, Future[_Read]]] = deque()

        def next_frames() -> Iterator[Frame]:
            number, source, future = ahead.popleft()
            room.ask(number)
            image, seconds = future.result()
            room.leave(number)
            if isinstance(image, ImageError) and source.kind == "image" and content_of(source.path) == "video":
                return _read_video(source, read, section, on_error, given_up)
            return _decoded(source, image, seconds, on_error)

        try:
            for number, source in enumerate(sources):
                ahead.append((number, source, pool.submit(_read_ahead, room, number, source, read)))
                if len(ahead) > (_AHEAD[source.kind] if max_ahead is None else max_ahead):
                    yield from next_frames()
                    _require_process(process)
            while ahead:
                yield from next_frames()
                _require_process(process)
        finally:
            for _, _, future in ahead:
                future.cancel()
            room.ask(math.inf)


def _require_process(process: int) -> None:
    if os.getpid() != process:
        raise RuntimeError(
            "these sources were begun before the process was forked, and what reads them is in the parent only: begin "
            "again here"
        )


_Read = tuple[Any, float]
"""An image or volume, or the fault of its file, and how many seconds it took."""


def _read_ahead(room: WaitingRoom, number: int, source: Source, read: Callable[[Any], Any]) -> _Read:
    num_pixels = 0
    if source.kind == "image" and source.path is not None:
        with suppress(ImageError):  # which is told when it is read
            height, width = image_size(source.path)
            num_pixels = height * width
    room.enter(number, num_pixels)
    return _timed(read, source.path)


def _timed(read: Callable[[Any], Any], path: Path | None) -> _Read:
    begin = time.perf_counter()
    try:
        image = read(path)
    except _FAULTS as error:
        image = error
    return image, time.perf_counter() - begin


def _decoded(source: Source, image: Any, seconds: float, on_error: OnError | None) -> Iterator[Frame]:
    if isinstance(image, Exception):
        _tell(source, image, on_error)
    else:
        case = ""
        if source.kind == "volume" and source.path is not None:
            case = case_name(source.path, image.num_channels)
        yield Frame(image, source.name, source.path, read_s=seconds, case=case)


def _tell(source: Source, error: Exception, on_error: OnError | None) -> None:
    """Blame ``source`` for ``error``: raise it, or tell ``on_error``."""
    if not isinstance(error, ImageError):
        told = f"{type(error).__name__} {error}".strip()
        error = ImageError(f"{source.name}: cannot be read: {told}")
    if on_error is None:
        raise error
    on_error(source, error)
