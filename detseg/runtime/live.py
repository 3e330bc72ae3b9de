"""Frames ahead of their use; of what is live, such as a camera, only the newest, which shows what is there now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from detseg.runtime.background import Weighed, iterate_ahead
from detseg.runtime.media.decode_budget import MAX_PIXELS_WAITING
from detseg.runtime.sources.frames import Frame


def take_ahead(frames: Iterator[Frame], size: int, stop: threading.Event | None = None) -> Iterator[Frame]:
    """``frames``, in their order, taken by a thread at most ``size`` of them ahead; with 0 as they are asked for.

    Live ones are always taken by a thread, as soon as they are there, and only the newest waits. It counts those that
    it has overtaken, see :class:`detseg.runtime.sources.frames.Frame`. ``stop``: see
    :func:`detseg.runtime.background.iterate_ahead`. Of large ones fewer are ahead.
    """
    weighed = Weighed(_weigh, MAX_PIXELS_WAITING)
    return iterate_ahead(frames, size, _overtake, stop, weighed) if size else _from_the_first_live_one(frames, stop)


def _from_the_first_live_one(frames: Iterator[Frame], stop: threading.Event | None) -> Iterator[Frame]:
    for frame in frames:
        if frame.is_live:
            yield from iterate_ahead(_both(frame, frames), 1, _overtake, stop)
            return
        yield frame


def _weigh(frame: Frame) -> int:
    return frame.num_pixels


def _both(first: Frame, others: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from others


def _overtake(last: Frame, new: Frame) -> Frame | None:
    if not (new.is_live and last.stream is new.stream):
        return None
    return replace(new, num_overtaken=new.num_overtaken + last.num_overtaken + 1)
