"""H.264 video with the sound of the original, by PyAV, the extra ``video``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from detseg.arrays import ByteArray
from detseg.files import SaveError, atomic_path, printable
from detseg.runtime.media.native_names import native_name
from detseg.runtime.media.sound import SoundError, add_sound, has_sound
from detseg.runtime.media.video_colors import BT709, read_colors, to_planes
from detseg.runtime.media.video_file import OneSize, require_rate

_TICKS, _SLOW_TICKS = 90_000, 1_000
"""Units of time per second; from image to image an MP4 counts no more than 2^31 of them."""


class H264Video:
    """An MP4 whose images are seen at their own times, in pixels ``pixel_aspect`` times as wide as high. Where it is
    made of ``source``, a video file, its colors are coded as those, and it has what is to be heard there between the
    first image and the last. Sound that cannot be carried over is left out, with a warning.

    The video appears when it is closed; if its ``with`` block ends in an exception, there is none and one of an earlier
    run stays. Without any image nothing is written.

    Raises:
        ValueError: ``fps`` is not from 0.01 to 1000.
        SaveError: the video cannot be written.
    """

    def __init__(
        self, path: Path | str, fps: float, source: Path | None = None, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        require_rate(fps)
        self.path = Path(path)
        self.fps = fps
        self._ticks = _TICKS if fps >= 1 else _SLOW_TICKS
        self._source = source
        self._pixel_aspect = pixel_aspect
        self._colors = BT709
        self._file = ExitStack()
        self._size = OneSize()
        self._container: Any = None
        self._video: Any = None
        self._start_s: float | None = None
        self._end_s = 0.0

    def append(self, image: ByteArray, name: str, time_s: float | None = None) -> None:
        """Add an image; without a time it follows the last one after ``1 / fps`` seconds.

        Raises:
            ValueError: it is not as large as the first one.
            SaveError: the video cannot be written.
        """
        import av

        image = self._size.even(image, name)
        if self._container is None:
            self._start_s = time_s or 0.0
            self._open(*image.shape[:2])
        assert self._start_s is not None
        position_s = self._end_s if time_s is None else time_s - self._start_s
        frame = av.VideoFrame.from_ndarray(to_planes(image, self._colors), format="yuv420p")
        frame.colorspace, frame.color_range = self._colors.matrix, self._colors.color_range
        frame.pts, frame.time_base = round(position_s * self._ticks), Fraction(1, self._ticks)
        frame.duration = round(self._ticks / self.fps)
        with _system_errors():
            self._container.mux(self._video.encode(frame))
        self._end_s = position_s + 1 / self.fps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def _open(self, height: int, width: int) -> None:
        import av

        temporary = self._file.enter_context(atomic_path(self.path))
        if self._source is not None:
            with native_name(self._source) as source:
                self._colors = read_colors(source)
            self._file.push(lambda kind, *_: self._add_sound(temporary) if kind is None else None)
        named = self._file.enter_context(native_name(temporary))
        with _system_errors():
            self._container = av.open(named, "w", format="mp4")
            self._file.push(self._complete)
            self._video = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(_TICKS))
            self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
            self._video.time_base = self._video.codec_context.time_base = Fraction(1, self._ticks)
            coded = self._video.codec_context
            coded.color_primaries, coded.color_trc = self._colors.primaries, self._colors.transfer
            coded.colorspace, coded.color_range = self._colors.matrix, self._colors.color_range
            coded.sample_aspect_ratio = self._pixel_aspect
            # Images are written while a network runs on the same cores. Slower presets make smaller files: "veryfast"
            # takes twice the time for three fifths of the size.
            self._video.options = {"preset": "superfast"}

    def _complete(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with _system_errors():
                self._container.mux(self._video.encode(None))
                self._container.close()
        else:
            with suppress(OSError), _system_errors():  # the file is dropped, and told of is the first failure
                self._container.close()

    def _add_sound(self, video: Path) -> None:
        """Sound comes when ``video`` has all its images, for nothing that is the matter with it may cost these."""
        assert self._source is not None
        with native_name(self._source) as source, native_name(video) as images:
            if not has_sound(source):
                return
            try:
                with atomic_path(video) as temporary, native_name(temporary) as whole:
                    problem = add_sound(images, source, whole, self._start_s or 0.0, self._end_s)
            except (SoundError, SaveError) as error:
                problem = f"its sound is left out: {error}"
            if problem is not None:
                warnings.warn(f"{printable(self._source)}: {problem}", stacklevel=2)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Errors of PyAV as errors of the system, which they are not always."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
