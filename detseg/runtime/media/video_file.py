"""Video files: MPEG-4 or Motion JPEG by OpenCV, without sound."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.files import atomic_path, printable
from detseg.runtime.media.mp4_boxes import write_tags
from detseg.runtime.media.native_names import native_name
from detseg.runtime.media.opencv_video import open_capture, open_writer
from detseg.runtime.media.video_colors import ColorTags

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
MIN_FPS, MAX_FPS = 0.01, 1000
"""The codecs keep rates within these; far beyond, encoders fail or never return."""
_WRITTEN_COLORS = ColorTags(matrix=6)
"""How OpenCV codes colors, whatever they were: by the matrix of ITU-R BT.601."""
_MAX_REPEATS = 100_000
"""How often one image may follow itself: more than an hour at the usual rates, and times may be anything."""


class VideoFile(Protocol):
    """A video that is being written; a context manager, complete when it is left."""

    def append(self, image: ByteArray, name: str, time_s: float | None = None) -> None:
        """Add ``image``, ``[H, W, 3]`` uint8 RGB, which messages call ``name``, to be seen from ``time_s`` on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenCVVideo:
    """A video of ``fps`` images per second. The suffix of ``path`` chooses the codec: MPEG-4 for .mp4, which also
    says how its colors are coded and that pixels are ``pixel_aspect`` times as wide as high, Motion JPEG for .avi.

    Images that come with their times keep them as far as the rate allows: one is repeated until the next is due, and
    of several that are due together only the last is seen, with a warning. So the duration is kept.

    The video appears when it is closed; if its ``with`` block ends in an exception, there is none and one of an earlier
    run stays. Without any image nothing is written.

    Raises:
        ValueError: another suffix, or ``fps`` is not from 0.01 to 1000.
        SaveError: on leaving the ``with`` block, if not every image has reached the file: the disk is full.
    """

    def __init__(self, path: Path | str, fps: float, pixel_aspect: Fraction = Fraction(1)) -> None:
        self.path = Path(path)
        self.fps = fps
        self._pixel_aspect = pixel_aspect
        if self.path.suffix not in CODECS:
            raise ValueError(f"{path}: a video ends in {' or '.join(CODECS)}, got {self.path.suffix or 'no suffix'}")
        require_rate(fps)
        self._file = ExitStack()
        self._size = OneSize()
        self._video: Any = None
        self._num_images = 0
        self._start_s: float | None = None
        self._waiting: tuple[int, Any] | None = None
        self._num_dropped = 0

    def append(self, image: ByteArray, name: str, time_s: float | None = None) -> None:
        """Add an image; without a time it follows the last one after ``1 / fps`` seconds.

        Raises:
            ValueError: it is not as large as the first one.
            SaveError: the video cannot be written.
        """
        image = self._size.even(image, name)
        if self._video is None:
            self._start_s = time_s or 0.0
            self._video = self._open(*image.shape[:2])
        assert self._start_s is not None
        before = -1 if self._waiting is None else self._waiting[0]
        # How many images come before this one.
        number = before + 1 if time_s is None else max(before, round((time_s - self._start_s) * self.fps))
        number = min(number, before + _MAX_REPEATS)
        self._write_until(number)
        self._waiting = number, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def _write_until(self, number: int) -> None:
        """Show the image that waits until the one of this ``number``."""
        if self._waiting is None:
            return
        self._num_dropped += number <= self._num_images
        while self._num_images < number:
            self._video.write(self._waiting[1])
            self._num_images += 1

    def _open(self, height: int, width: int) -> Any:
        temporary = self._file.enter_context(atomic_path(self.path))
        codec = CODECS[self.path.suffix]
        name = self._file.enter_context(native_name(temporary))
        video = open_writer(name, codec, self.fps, (width, height))
        if not video.isOpened():
            raise OSError(
                f"{self.path}: OpenCV cannot write {codec} video of {width}x{height} at {self.fps:g} fps here"
            )
        self._file.callback(self._complete, video, name)
        return video

    def _complete(self, video: Any, name: str) -> None:
        """Close the file and count what is in it, for OpenCV only warns where the disk is full."""
        self._write_until(self._num_images + 1)
        video.release()
        if self._num_dropped:
            warnings.warn(
                f"{printable(self.path)}: {self._num_dropped} images came faster than {self.fps:g} a second and are "
                "left out",
                stacklevel=2,
            )
        written = open_capture(name)
        num_readable = max(0, round(written.get(cv2.CAP_PROP_FRAME_COUNT)))
        written.release()
        if num_readable < self._num_images:
            raise OSError(f"the video holds {num_readable} of {self._num_images} images")
        if self.path.suffix == ".mp4":
            write_tags(name, _WRITTEN_COLORS, self._pixel_aspect)


class OneSize:
    """Sees to it that all images of a video are as large as the first, and even, as the codecs want it."""

    def __init__(self) -> None:
        self._first: tuple[str, tuple[int, ...]] | None = None

    def even(self, image: ByteArray, name: str) -> ByteArray:
        """``image``, its last row or column repeated where its height or width is odd.

        Raises:
            ValueError: it is not as large as the first one.
        """
        first_name, shape = self._first = self._first or (name, image.shape)
        if image.shape != shape:
            raise ValueError(
                f"the images of a video have one size: {first_name} is {shape[1]}x{shape[0]}, {name} is "
                f"{image.shape[1]}x{image.shape[0]}; leave out `video`, or resize the images"
            )
        if shape[0] % 2 or shape[1] % 2:
            image = cv2.copyMakeBorder(image, 0, shape[0] % 2, 0, shape[1] % 2, cv2.BORDER_REPLICATE).astype(
                np.uint8, copy=False
            )
        return image


def require_rate(fps: float) -> None:
    """Refuse rates that no codec keeps."""
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps must be from {MIN_FPS} to {MAX_FPS}, got {fps}")
