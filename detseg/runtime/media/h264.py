"""H.264 video with the sound of the original, by PyAV, the extra ``video``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.files import atomic_path
from detseg.runtime.media.video_file import OneSize, require_rate

_TICKS = 90_000
"""Units of time per second."""
_COPIED = frozenset({"aac", "ac3", "alac", "eac3", "mp3"})
"""Codecs of sound that an MP4 holds as they are; any other becomes AAC."""


class H264Video:
    """An MP4 whose pictures are seen at their own times, with what ``sound_of``, a video file, has to be heard between
    the first and the last.

    The video appears when it is closed; if its ``with`` block ends in an exception, there is none and one of an earlier
    run stays. Without any picture nothing is written.

    Raises:
        ValueError: ``fps`` is not from 0.01 to 1000.
        SaveError: the video cannot be written.
    """

    def __init__(self, path: Path | str, fps: float, sound_of: Path | None = None) -> None:
        require_rate(fps)
        self.path = Path(path)
        self.fps = fps
        self._sound_of = sound_of
        self._file = ExitStack()
        self._size = OneSize()
        self._container: Any = None
        self._video: Any = None
        self._sound: Iterator[tuple[float, Any]] = iter(())
        self._heard_next: tuple[float, Any] | None = None
        self._start_s: float | None = None
        self._end_s = 0.0

    def append(self, picture: ByteArray, name: str, time_s: float | None = None) -> None:
        """Add a picture; without a time it follows the last one after ``1 / fps`` seconds.

        Raises:
            ValueError: it is not as large as the first one.
            SaveError: the video cannot be written.
        """
        import av

        picture = self._size.even(picture, name)
        if self._container is None:
            self._start_s = time_s or 0.0
            self._open(*picture.shape[:2])
        assert self._start_s is not None
        position_s = self._end_s if time_s is None else time_s - self._start_s
        # OpenCV converts twice as fast as the library that PyAV would use.
        planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = round(position_s * _TICKS), Fraction(1, _TICKS)
        frame.duration = round(_TICKS / self.fps)
        self._container.mux(self._video.encode(frame))
        self._end_s = position_s + 1 / self.fps
        self._hear(self._end_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def _open(self, height: int, width: int) -> None:
        import av

        # Before the file is made, or a fault of the source would be told as one of the file.
        source = None if self._sound_of is None else self._file.enter_context(av.open(str(self._sound_of)))
        temporary = self._file.enter_context(atomic_path(self.path))
        self._container = self._file.enter_context(av.open(str(temporary), "w"))
        self._video = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(_TICKS))
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = Fraction(1, _TICKS)
        # Pictures are written while a network runs on the same cores. Slower presets make smaller files: "veryfast"
        # takes twice the time for three fifths of the size.
        self._video.options = {"preset": "superfast"}
        if source is not None and source.streams.audio:
            self._sound = self._copy(source) if _is_copied(source) else self._encode(source)
            self._heard_next = next(self._sound, None)
        self._file.push(self._flush)

    def _flush(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._container.mux(self._video.encode(None))
            self._hear(self._end_s)

    def _hear(self, until_s: float) -> None:
        """Write what begins to be heard before then, beside the pictures, as players expect it."""
        import av

        while self._heard_next is not None and self._heard_next[0] < until_s:
            self._container.mux(self._heard_next[1])
            try:
                self._heard_next = next(self._sound, None)
            except av.FFmpegError as error:
                warnings.warn(f"{self._sound_of}: the sound ends at {until_s:.1f} s: {error}", stacklevel=2)
                self._heard_next = None

    def _copy(self, source: Any) -> Iterator[tuple[float, Any]]:
        """The packets of the sound, with their times."""
        origin_s, sound = self._origin_s(source), source.streams.audio[0]
        stream = self._container.add_stream_from_template(sound)
        for packet in source.demux(sound):
            if packet.dts is None or packet.pts is None or packet.pts * packet.time_base < origin_s:
                continue
            shift = round(origin_s / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            yield float(packet.pts * packet.time_base), packet

    def _encode(self, source: Any) -> Iterator[tuple[float, Any]]:
        """The packets of the sound as AAC, mono or stereo, with their times."""
        import av

        origin_s, sound = self._origin_s(source), source.streams.audio[0]
        stream = self._container.add_stream("aac", rate=sound.rate)
        stream.layout = "mono" if sound.layout.nb_channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=sound.rate)
        for frame in source.decode(sound):
            if frame.time is None or frame.time < origin_s:
                continue
            frame.pts -= round(origin_s / frame.time_base)
            for piece in resampler.resample(frame):
                yield piece.time or 0.0, stream.encode(piece)
        yield 0.0, stream.encode(None)

    def _origin_s(self, source: Any) -> Fraction:
        """Where the first picture stands on the clock of the source."""
        video = source.streams.video[0]
        return Fraction((video.start_time or 0) * video.time_base + Fraction(self._start_s or 0))


def _is_copied(source: Any) -> bool:
    return source.streams.audio[0].codec_context.name in _COPIED
