"""Reading videos, cameras and streams frame by frame, to the last that decodes, with their own time stamps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.media.frames import Frame, StreamInfo
from detseg.runtime.media.images import MAX_PIXELS, ImageError
from detseg.runtime.media.video_container import VIDEO_SUFFIXES, read_container

_NUM_TIMED = 9
"""Frames that are decoded before the first is given, to see how far apart they are."""
_USUAL_FPS = 25.0


class TruncatedVideoError(ImageError):
    """The end of a video is missing; what could be decoded has been given."""


@dataclass(frozen=True, slots=True)
class Section:
    """Which frames of a video are wanted: every ``every``-th from ``start_s``, as long as they are before ``end_s``."""

    every: int = 1
    start_s: float = 0.0
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise ValueError(
                f"a section starts at 0 s or later and ends after that, got {self.start_s} to {self.end_s}"
            )


def read_video(path: Path | str, section: Section | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """The frames of a video file, upright, in RGB; one is held at a time, a few at the beginning.

    What the header claims of the number of frames and of their rate does not count: frames are read until none is
    left, and their times are those of the stream.

    Raises:
        ImageError: the file is missing, no supported container, has no video that can be decoded, or its pictures have
            more than ``max_pixels`` pixels.
        TruncatedVideoError: after the last frame, if the container promises more bytes than the file has.
    """
    try:
        container = read_container(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if container is None:
        raise ImageError(f"{path}: no video by its content; supported are {', '.join(VIDEO_SUFFIXES)}")
    try:
        # The whole path: OpenCV takes what stands before a colon for a protocol.
        target = os.fsencode(Path(path).absolute()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path!r}: its name is not UTF-8, which OpenCV cannot open; rename the file") from error
    num_frames = 0
    for frame in _frames(target, str(path), Path(path), section or Section(), max_pixels):
        num_frames = (frame.index or 0) + 1
        yield frame
    if container.num_missing:
        raise TruncatedVideoError(
            f"{path}: truncated, {container.num_missing} bytes of the {container.format} are missing; {num_frames} "
            "frames were read"
        )


def read_stream(target: str | int, section: Section | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """The frames of a camera, by its number, or of a network address, until it ends. Cameras are live, and so are
    addresses that do not say how long they are.

    Raises:
        ImageError: it cannot be opened, or gives nothing.
    """
    name = f"camera{target}" if isinstance(target, int) else target
    yield from _frames(target, name, None, section or Section(), max_pixels)


def _frames(target: str | int, name: str, path: Path | None, section: Section, max_pixels: int) -> Iterator[Frame]:
    capture = cv2.VideoCapture(target)
    try:
        if not capture.isOpened():
            raise ImageError(f"{name}: cannot be opened as a video; it is damaged, or of an unknown codec")
        width, height = (round(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise ImageError(f"{name}: {width}x{height} pixels, allowed are {max_pixels} in all")
        pictures = _decode(capture, section)
        # A camera shall show what it sees now, not what it saw some frames ago.
        first = list(islice(pictures, _NUM_TIMED if path is not None else 1))
        if not first:
            if section.start_s:
                return
            raise ImageError(f"{name}: no picture of it can be decoded")
        fps = _rate([time_s for _, time_s, _ in first], section.every, capture.get(cv2.CAP_PROP_FPS))
        height, width = first[0][2].shape[:2]
        num_expected = _expected(capture, fps, section)
        live = path is None and (isinstance(target, int) or num_expected is None)
        stream = StreamInfo(fps, width, height, num_expected, live)
        for index, time_s, picture in chain(first, pictures):
            yield Frame(picture, name, path, index, time_s, stream)
    finally:
        capture.release()


def _decode(capture: Any, section: Section) -> Iterator[tuple[int, float, ByteArray]]:
    """Number, time in seconds and picture (RGB) of the frames of the ``section``. Those before it are decoded, not
    sought, because seeking misses by up to the distance of two key frames."""
    index, num_wanted = 0, 0
    previous, step = 0.0, 1 / _claimed(capture.get(cv2.CAP_PROP_FPS))
    first_time: float | None = None
    while capture.grab():
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if first_time is None:
            first_time, time_s = stamp, 0.0
        else:
            time_s = stamp - first_time
            if time_s <= previous:  # OpenCV has no stamp for the last frames of some containers
                time_s = previous + step
            step = time_s - previous
        previous = time_s
        if section.end_s is not None and time_s >= section.end_s:
            return
        if time_s >= section.start_s:
            if num_wanted % section.every == 0:
                decoded, bgr = capture.retrieve()
                if decoded:
                    yield index, time_s, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            num_wanted += 1
        index += 1


def _expected(capture: Any, fps: float, section: Section) -> int | None:
    """By the claimed duration: headers that count fields or fill gaps claim more frames, but at a higher rate."""
    duration_s = float(capture.get(cv2.CAP_PROP_FRAME_COUNT)) / _claimed(capture.get(cv2.CAP_PROP_FPS))
    if duration_s <= 0:
        return None
    end_s = duration_s if section.end_s is None else min(duration_s, section.end_s)
    return max(1, round((end_s - section.start_s) * fps))


def _claimed(fps: float) -> float:
    return fps if 0 < fps <= 1000 else _USUAL_FPS


def _rate(times_s: list[float], every: int, claimed: float) -> float:
    """Frames per second of what is given, by the median distance of the first ones; of a single one as claimed."""
    if len(times_s) < 2:
        return _claimed(claimed) / every
    return round(float(1 / np.median(np.diff(times_s))), 3)
