"""Videos of drawn results: one of each video that is read, and one of still pictures in a row."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from detseg.arrays import ByteArray
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.h264 import H264Video
from detseg.runtime.media.video_file import OpenCVVideo, VideoFile, require_rate
from detseg.runtime.writers.output_folder import OutputFolder
from detseg.structures import Detections, LabelMap

STILLS = "video"
"""The name of the video that still pictures make."""


class VideoWriter:
    """Writes the pictures with their results drawn into ``folder``: those of a video under its name as .mp4, still ones
    in the order they come as ``video.mp4`` with ``fps`` pictures per second.

    Videos keep their rate, and with it their duration. With the package av, the extra ``video``, they are H.264 with
    the times of the pictures and the sound of the original, otherwise MPEG-4 of a constant rate without sound. The
    video of a source appears when the next source begins or the writer is closed. If its ``with`` block ends in an
    exception, there is none, and one of an earlier run stays.

    Raises:
        ValueError: ``fps`` is not from 0.01 to 1000, or ``folder`` holds one of the ``sources``.
        SaveError: not every picture has reached a file: the disk is full.
    """

    def __init__(
        self,
        folder: Path | str,
        draw: Callable[[Frame, Any], ByteArray],
        sources: Iterable[Path | str] = (),
        fps: float = 25.0,
    ) -> None:
        require_rate(fps)
        self._draw = draw
        self._fps = fps
        self._output = OutputFolder(folder, sources)
        self._stills = ExitStack()
        self._stills_video: VideoFile | None = None
        self._stream = ExitStack()
        self._stream_video: VideoFile | None = None
        self._last: Frame | None = None

    def write(self, frame: Frame, result: Detections | LabelMap) -> None:
        """Append one picture.

        Raises:
            ValueError: the picture is not as large as the first one of its video.
            SaveError: the video cannot be written.
        """
        if frame.stream is None:
            self._stills_video = self._stills_video or self._stills.enter_context(self._open(STILLS, self._fps))
            video = self._stills_video
        else:
            if self._stream_video is None or self._last is None or not frame.follows(self._last):
                self._stream.close()
                self._stream_video = self._stream.enter_context(self._open(frame.stem, frame.stream.fps, frame.path))
            video = self._stream_video
            self._last = frame
        video.append(self._draw(frame, result), frame.source, frame.time_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.__exit__(kind, error, trace)
        finally:
            self._stills.__exit__(kind, error, trace)

    def _open(self, stem: str, fps: float, sound_of: Path | None = None) -> VideoFile:
        path = self._output.folder / self._output.free_name(stem, ".mp4")
        if importlib.util.find_spec("av") is None:
            return OpenCVVideo(path, fps)
        return H264Video(path, fps, sound_of)
