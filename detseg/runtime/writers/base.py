"""What writers of every kind of results share: folders where no source can be overwritten, pictures and videos with the
results drawn, and text files that appear when they are complete."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from detseg.arrays import ByteArray
from detseg.files import atomic_path
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.h264 import H264Video
from detseg.runtime.media.images import IMAGE_SUFFIXES, write_image
from detseg.runtime.media.video_file import OpenCVVideo, VideoFile, require_rate

Draw = Callable[[Frame, Any], ByteArray]
"""Makes the picture of a frame with its result."""

STILLS = "video"
"""The name of the video that still pictures make."""


class ResultWriter(Protocol):
    """What takes the result of one image or volume after the other; a context manager, complete when it is left."""

    def write(self, frame: Frame, result: Any, /) -> None:
        """Take the ``result`` for the image or volume of ``frame``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OutputFolder:
    """Gives each image a file name in ``folder`` that no other has.

    Two images of the same name give ``name.jpg`` and ``name_2.jpg``. Files of an earlier run may be replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, sources: Iterable[Path | str] = ()) -> None:
        self.folder = Path(folder)
        self._taken: set[str] = set()
        for source in sources:
            self._refuse_own_folder(Path(source))

    def path_for(self, frame: Frame, suffix: str) -> Path:
        """The path for the result of ``frame``: its name with ``suffix``."""
        if frame.path is not None:
            self._refuse_own_folder(frame.path)
        return self.folder / self.free_name(frame.name, suffix)

    def free_name(self, stem: str, suffix: str) -> str:
        """``stem`` with ``suffix``, and with a number between them if that is taken."""
        # Compared without case, because some file systems do.
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self._taken.add(name.casefold())
        return name

    def _refuse_own_folder(self, source: Path) -> None:
        if source.resolve().parent == self.folder.resolve():
            raise ValueError(
                f"the results would be written into {self.folder}, where the source {source} lies; "
                "name another output folder"
            )


class PictureWriter:
    """Writes every image with its result drawn into ``folder``, under the name of its source.

    Two sources of the same name give ``name.jpg`` and ``name_2.jpg``. Pictures of an earlier run are replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, draw: Draw, sources: Iterable[Path | str] = ()) -> None:
        self._draw = draw
        self._output = OutputFolder(folder, sources)

    def write(self, frame: Frame, result: Any) -> None:
        """Draw and write one picture."""
        suffix = Path(frame.source).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            suffix = ".png" if frame.stream is None else ".jpg"
        write_image(self._output.path_for(frame, suffix), self._draw(frame, result))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: every picture is complete when it is written."""


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
        draw: Draw,
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

    def write(self, frame: Frame, result: Any) -> None:
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


class DrawnWriter:
    """Frames of videos go to ``videos``, still pictures to ``pictures``."""

    def __init__(self, pictures: ResultWriter, videos: ResultWriter) -> None:
        self._pictures = pictures
        self._videos = videos
        self._both = ExitStack()

    def write(self, frame: Frame, result: Any) -> None:
        """Write one picture, or append it to its video."""
        (self._pictures if frame.stream is None else self._videos).write(frame, result)

    def __enter__(self) -> Self:
        for writer in (self._pictures, self._videos):
            self._both.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._both.__exit__(kind, error, trace)


class TextFile:
    """A file that appears when its ``with`` block is left, unless that ends in an exception."""

    def __init__(self, path: Path) -> None:
        self._files = ExitStack()
        temporary = self._files.enter_context(atomic_path(path))
        # A file name that is not UTF-8 must not cost the results.
        opened = temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._text: IO[str] = self._files.enter_context(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


class JsonLinesWriter(TextFile):
    """Writes a JSON object per image, each in a line of its own: ``file``, ``height``, ``width``, of frames of videos
    ``frame`` and ``time_s``, and what ``record`` makes of its result.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, record: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__(Path(path))
        self._record = record

    def write(self, frame: Frame, result: Any) -> None:
        """Take the result of one image."""
        height, width = frame.pixels.shape[:2]
        line: dict[str, Any] = {"file": frame.source, "height": height, "width": width}
        if frame.index is not None:
            line |= {"frame": frame.index, "time_s": rounded(frame.time_s or 0.0)}
        self._text.write(json.dumps(line | self._record(result), allow_nan=False) + "\n")


class JsonList:
    """A JSON file with one list, written entry by entry, so that memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._separator = "[\n"

    def append(self, entry: dict[str, Any]) -> None:
        self._stream.write(self._separator + json.dumps(entry, allow_nan=False))
        self._separator = ",\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stream:
            self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")


def or_empty(value: float | None) -> float | str:
    """``value``, rounded; nothing where there is none."""
    return "" if value is None else rounded(value)


def rounded(value: float) -> float:
    """Without the digits that a float32 does not have."""
    return value if isinstance(value, int) else float(f"{value:.7g}")
