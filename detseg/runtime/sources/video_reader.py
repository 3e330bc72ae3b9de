"""Reading videos, cameras and streams frame by frame, to the last that decodes, with their own time stamps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.media.images import MAX_PIXELS, ImageError
from detseg.runtime.media.mp4_boxes import Matrix, is_turned, read_mirrored, shown
from detseg.runtime.media.native_names import native_name
from detseg.runtime.media.opencv_video import NoFFmpegError, open_capture
from detseg.runtime.media.video_container import VIDEO_SUFFIXES, read_container
from detseg.runtime.sources.frames import Frame, StreamInfo

_NUM_TIMED = 9
"""Frames that are decoded before the first is given, to see how far apart they are."""
_USUAL_FPS = 25.0
_SAME_RATE = 0.02
"""How far the rate of time stamps in whole milliseconds is off, at some 25 frames per second."""
_LEAST_STEP_S = 0.001

Item = TypeVar("Item")


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
        ImageError: the file is missing, no supported container, has no video that can be decoded, no frame in the
            ``section``, or its images have more than ``max_pixels`` pixels.
        TruncatedVideoError: after the last frame, if the container promises more bytes than the file has.
    """
    try:
        container = read_container(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if container is None:
        raise ImageError(f"{path}: no video by its content; supported are {', '.join(VIDEO_SUFFIXES)}")
    num_frames = 0
    with native_name(path) as target:
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
    addresses that do not say how long they are. Where these have no clock of their own, the times are those at which
    the frames came.

    Raises:
        ImageError: it cannot be opened, or gives nothing.
    """
    name = f"camera{target}" if isinstance(target, int) else target
    yield from _frames(target, name, None, section or Section(), max_pixels)


def _frames(target: str | int, name: str, path: Path | None, section: Section, max_pixels: int) -> Iterator[Frame]:
    try:
        capture = open_capture(target)
    except NoFFmpegError as error:
        raise ImageError(f"{name}: {error}") from error
    try:
        if not capture.isOpened():
            raise ImageError(f"{name}: cannot be opened as a video; it is damaged, or of an unknown codec")
        width, height = (round(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise ImageError(f"{name}: {width}x{height} pixels, allowed are {max_pixels} in all")
        clock = _Clock(capture, is_live=path is None)
        # OpenCV turns images as a video asks for, but takes a mirror for a turn.
        mirror = None if path is None else read_mirrored(path)
        if mirror is not None:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        images = _timed(_decode(capture, section, clock, mirror))
        # A camera shall show what it sees now, not what it saw some frames ago.
        first = list(islice(images, _NUM_TIMED if path is not None else 1))
        if not first:
            raise ImageError(f"{name}: {_nothing_of(section, clock.last_s)}")
        fps = _rate([time_s for (_, time_s, _), _ in first], section.every, capture)
        height, width = first[0][0][2].shape[:2]
        num_expected = _expected(capture, fps, section)
        live = path is None and (isinstance(target, int) or num_expected is None)
        stream = StreamInfo(fps, width, height, num_expected, live, _pixel_aspect(capture, mirror))
        for (index, time_s, image), seconds in chain(first, images):
            yield Frame(image, name, path, index, time_s, stream, seconds)
    finally:
        capture.release()


class _Clock:
    """Tells the time of each frame that ``capture`` has taken, in seconds from the first on: its time stamp, or where a
    live source has none the time of its arrival. ``last_s`` is that of the last one, also where it was not wanted."""

    def __init__(self, capture: Any, is_live: bool) -> None:
        self.last_s: float | None = None
        self._capture = capture
        self._is_live = is_live and capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
        # What cameras send as one JPEG after the other has no time stamps; OpenCV counts 25 a second.
        is_mjpeg = round(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
        self._by_arrival = self._is_live and is_mjpeg
        self._first = (0.0, 0.0)
        self._step_s = 1 / _claimed(capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> float:
        """The time of the frame that was taken last; it rises from frame to frame."""
        stamp_s, now_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, time.perf_counter()
        if self.last_s is None:
            self._first, self.last_s = (stamp_s, now_s), 0.0
            return 0.0
        stamp_s, now_s = stamp_s - self._first[0], now_s - self._first[1]
        time_s = now_s if self._by_arrival else stamp_s
        if time_s <= self.last_s:
            # OpenCV has no stamp for the last frames of some containers, and for none of some cameras.
            time_s = self.last_s + (_LEAST_STEP_S if self._by_arrival else self._step_s)
            if self._is_live and now_s > self.last_s:
                time_s = now_s
        self._step_s = time_s - self.last_s
        self.last_s = time_s
        return time_s


def _nothing_of(section: Section, last_s: float | None) -> str:
    """Why there is no frame, where the last one that was come upon is at ``last_s``."""
    if last_s is None or (section.start_s <= last_s and section.end_s is None):
        return "no image of it can be decoded"
    wanted = f"from {section.start_s:g} s" + (" on" if section.end_s is None else f" to {section.end_s:g} s")
    if last_s < section.start_s:
        return f"has no frame {wanted}: the last one is at {last_s:.3f} s"
    return f"has no frame {wanted}: the next one is at {last_s:.3f} s"


def _decode(
    capture: Any, section: Section, clock: _Clock, mirror: Matrix | None
) -> Iterator[tuple[int, float, ByteArray]]:
    """Number, time in seconds and image (RGB) of the frames of the ``section``. Those before it are decoded, not
    sought, because seeking misses by up to the distance of two key frames."""
    index, num_wanted = 0, 0
    while capture.grab():
        time_s = clock.read()
        if section.end_s is not None and time_s >= section.end_s:
            return
        if time_s >= section.start_s:
            if num_wanted % section.every == 0:
                decoded, bgr = capture.retrieve()
                if decoded:
                    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                    yield index, time_s, rgb if mirror is None else shown(rgb, mirror)
            num_wanted += 1
        index += 1


def _pixel_aspect(capture: Any, mirror: Matrix | None) -> Fraction:
    """How wide a pixel is shown for its height, in images that stand upright."""
    width, height = (round(capture.get(side)) for side in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    if width < 1 or height < 1:
        return Fraction(1)
    turned = round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 != 0 if mirror is None else is_turned(mirror)
    return Fraction(height, width) if turned else Fraction(width, height)


def _timed(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Each of ``items`` with the seconds that it took to come."""
    while True:
        begin = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - begin


def _expected(capture: Any, fps: float, section: Section) -> int | None:
    """By the claimed duration: headers that count fields or fill gaps claim more frames, but at a higher rate."""
    duration_s = float(capture.get(cv2.CAP_PROP_FRAME_COUNT)) / _claimed(capture.get(cv2.CAP_PROP_FPS))
    if duration_s <= 0:
        return None
    end_s = duration_s if section.end_s is None else min(duration_s, section.end_s)
    return max(1, round((end_s - section.start_s) * fps))


def _claimed(fps: float) -> float:
    return fps if 0 < fps <= 1000 else _USUAL_FPS


def _rate(times_s: list[float], every: int, capture: Any) -> float:
    """Frames per second of what is given, by the median distance of the first ones, or as claimed if that is the same
    but for the rounding of time stamps; a single one lasts as long as the video."""
    claimed = _claimed(capture.get(cv2.CAP_PROP_FPS))
    if len(times_s) < 2:
        num_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return claimed / (min(every, num_frames) if num_frames > 0 else every)
    seen = float(1 / np.median(np.diff(times_s)))
    return round(claimed / every if abs(claimed / every / seen - 1) < _SAME_RATE else seen, 3)
