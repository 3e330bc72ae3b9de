"""A video of drawn results, from a folder of frames or any other sequence of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2

from detseg.arrays import ByteArray
from detseg.files import atomic_path
from detseg.runtime.show import draw_result
from detseg.structures import Detections, LabelMap

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
MIN_FPS, MAX_FPS = 0.01, 1000
"""The codecs keep rates within these; far beyond, encoders fail or never return."""


class VideoWriter:
    """Writes the images with their results drawn as one video of ``fps`` pictures per second, in the order they come.

    The suffix of ``path`` chooses the codec: MPEG-4 for .mp4, Motion JPEG for .avi. The video appears when the writer
    is closed; if its ``with`` block ends in an exception, there is none and one of an earlier run stays. Without any
    image nothing is written. Both codecs take even sizes only: the last row or column of an odd size is repeated.

    Raises:
        ValueError: another suffix, or ``fps`` is not from 0.01 to 1000.
        SaveError: on leaving the ``with`` block, if not every picture has reached the file: the disk is full.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str], fps: float = 25.0) -> None:
        self.path = Path(path)
        self.class_names = tuple(class_names)
        self.fps = fps
        if self.path.suffix not in CODECS:
            raise ValueError(f"{path}: a video ends in {' or '.join(CODECS)}, got {self.path.suffix or 'no suffix'}")
        if not MIN_FPS <= fps <= MAX_FPS:
            raise ValueError(f"fps must be from {MIN_FPS} to {MAX_FPS}, got {fps}")
        self._file = ExitStack()
        self._video: Any = None
        self._num_pictures = 0
        self._first: tuple[str, tuple[int, ...]] = ("", ())

    def write(self, source: Path | str, image: ByteArray, result: Detections | LabelMap) -> None:
        """Append one picture.

        Raises:
            ValueError: the picture is not as large as the first one.
            SaveError: the video cannot be written.
        """
        if self._video is None:
            self._first = (str(source), image.shape)
            height, width = (side + side % 2 for side in image.shape[:2])
            self._video = self._open(width, height)
        name, shape = self._first
        if image.shape != shape:
            raise ValueError(
                f"the pictures of a video have one size: {name} is {shape[1]}x{shape[0]}, {source} is "
                f"{image.shape[1]}x{image.shape[0]}; leave out `video`, or resize the pictures"
            )
        picture = cv2.cvtColor(draw_result(image, result, self.class_names), cv2.COLOR_RGB2BGR)
        if shape[0] % 2 or shape[1] % 2:
            picture = cv2.copyMakeBorder(picture, 0, shape[0] % 2, 0, shape[1] % 2, cv2.BORDER_REPLICATE)
        self._video.write(picture)
        self._num_pictures += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def _open(self, width: int, height: int) -> Any:
        temporary = self._file.enter_context(atomic_path(self.path))
        codec = CODECS[self.path.suffix]
        video = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), self.fps, (width, height))
        if not video.isOpened():
            raise OSError(
                f"{self.path}: OpenCV cannot write {codec} video of {width}x{height} at {self.fps:g} fps here"
            )
        self._file.callback(self._complete, video, temporary)
        return video

    def _complete(self, video: Any, path: Path) -> None:
        """Close the file and count what is in it, for OpenCV only warns where the disk is full."""
        video.release()
        written = cv2.VideoCapture(str(path))
        num_readable = max(0, round(written.get(cv2.CAP_PROP_FRAME_COUNT)))
        written.release()
        if num_readable < self._num_pictures:
            raise OSError(f"the video holds {num_readable} of {self._num_pictures} pictures")
