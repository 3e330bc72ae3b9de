"""What writers of every kind of results share: folders where no source can be overwritten, images and videos with the
results drawn, and lines of text."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from detseg.arrays import ByteArray
from detseg.files import ReadFrom, fitting_name, require_replaceable
from detseg.runtime.media.h264 import H264Video
from detseg.runtime.media.images import IMAGE_SUFFIXES, MAX_PIXELS, WRITABLE_SUFFIXES, write_image
from detseg.runtime.media.large_images import let_go
from detseg.runtime.media.video_file import MAX_FPS, MIN_FPS, OpenCVVideo, VideoFile, require_rate
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.cells import as_text_cell
from detseg.runtime.writers.growing import GrowingText

Draw = Callable[[Frame, Any], ByteArray]
"""Makes the image of a frame with its result."""

_MAX_DRAWN = 2**26
"""Pixels of what is drawn of an image that is too large to be in memory."""
STILLS = "video"
"""The name of the video that still images make."""


class ResultWriter(Protocol):
    """What takes the result of one image or volume after the other; a context manager, complete when it is left."""

    def write(self, frame: Frame, result: Any, /) -> None:
        """Take the ``result`` for the image or volume of ``frame``."""

    def end_source(self) -> None:
        """No more images of the same source follow: complete its files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


OnFile = Callable[[Path, Frame], None]
"""Is told of each file that holds the result of one source, and of its (first) image."""


@dataclass(frozen=True)
class SharedOutput:
    """What the writers of one run share: the names that are ``taken``, in which folder, by which writer and for which
    image, so that none writes over another's; ``overwrite``: they may replace what was there before the run;
    ``on_file`` is told of each file when it is whole, ``on_claim`` before anything is written there; ``goes_on``:
    tables continue what an earlier process has written of them."""

    overwrite: bool = True
    on_file: OnFile | None = None
    on_claim: OnFile | None = None
    goes_on: bool = False
    taken: dict[tuple[Path, str], tuple[object, str, int | None]] = field(default_factory=dict)


class OutputFolder:
    """Gives each image a file name in ``folder`` that no other has.

    Two images of the same name give ``name.jpg`` and ``name_2.jpg``. Files of an earlier run may be replaced, unless
    ``outputs`` say otherwise.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(
        self, folder: Path | str, sources: Iterable[Path | str] = (), outputs: SharedOutput | None = None
    ) -> None:
        self.folder = Path(folder)
        self._outputs = outputs or SharedOutput()
        self._read_from = ReadFrom()
        self._read_from.require_apart(self.folder, sources)

    def path_for(self, frame: Frame, suffix: str, stem: str | None = None) -> Path:
        """The path for the result of ``frame``: its name, or ``stem``, with ``suffix``.

        Raises:
            ValueError: the source of ``frame`` lies in the folder, or something that may not be replaced.
        """
        if frame.path is not None:
            self._read_from.require_apart(self.folder, [frame.path])
        is_new, name = self._name(frame, frame.name if stem is None else stem, suffix)
        path = self.folder / name
        if is_new:
            require_replaceable(path, overwrite=self._outputs.overwrite)
            if self._outputs.on_claim is not None:
                self._outputs.on_claim(path, frame)
        return path

    def written(self, path: Path, frame: Frame) -> None:
        """Note that ``path`` holds what was found in ``frame``, or in it and others of its source."""
        is_mine = self._outputs.taken[self.folder, path.name.casefold()][0] is self
        if is_mine and self._outputs.on_file is not None:
            self._outputs.on_file(path, frame)

    def _name(self, frame: Frame, stem: str, suffix: str) -> tuple[bool, str]:
        """``stem`` with ``suffix``, and with a number between them if that is taken, and whether it is a new name:
        another writer may have made the same image of the same image."""
        number, name = 1, fitting_name(stem, suffix)
        taken, mine = self._outputs.taken, (self, frame.source, frame.index)
        # Compared without case, because some file systems do.
        while other := taken.get((self.folder, name.casefold())):
            if other[0] is not self and other[1:] == mine[1:]:
                return False, name
            number += 1
            name = fitting_name(stem, f"_{number}{suffix}")
        taken[self.folder, name.casefold()] = mine
        return True, name


class WholeFiles:
    """What writers have in common whose every file is whole when :meth:`write` returns."""

    def end_source(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: every file is complete when it is written."""


class FolderWriter(WholeFiles):
    """What writers have in common that put files of what was found in one image into ``folder``, named by its source.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(
        self, folder: Path | str, sources: Iterable[Path | str] = (), outputs: SharedOutput | None = None
    ) -> None:
        self._output = OutputFolder(folder, sources, outputs)


class ImageWriter(FolderWriter):
    """Writes every image with its result drawn into ``folder``, under the name of its source.

    Two sources of the same name give ``name.jpg`` and ``name_2.jpg``. Images of an earlier run are replaced, unless
    ``outputs`` say otherwise.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(
        self, folder: Path | str, draw: Draw, sources: Iterable[Path | str] = (), outputs: SharedOutput | None = None
    ) -> None:
        self._draw = draw
        super().__init__(folder, sources, outputs)

    def write(self, frame: Frame, result: Any) -> None:
        """Draw and write one image."""
        suffix = Path(frame.source).suffix
        if suffix.lower() not in WRITABLE_SUFFIXES:
            suffix = ".png" if frame.stream is None and suffix.lower() not in IMAGE_SUFFIXES else ".jpg"
        path = self._output.path_for(frame, suffix)
        write_image(path, self._draw(frame, result))
        self._output.written(path, frame)


class VideoWriter:
    """Writes the images with their results drawn into ``folder``: those of a video under its name as .mp4, still ones
    in the order they come as ``video.mp4`` with ``fps`` images per second.

    Videos keep their duration. With the package av, the extra ``video``, they are H.264 with the times of the images
    and the sound of the original, otherwise MPEG-4 of a constant rate without sound. The video of a source appears when
    the next source begins or the writer is closed. If its ``with`` block ends in an exception, there is none, and one
    of an earlier run stays. An image that cannot be written costs the video of its source.

    Raises:
        ValueError: ``fps`` is not from 0.01 to 1000, or ``folder`` holds one of the ``sources``.
        SaveError: not every image has reached a file: the disk is full.
    """

    def __init__(
        self,
        folder: Path | str,
        draw: Draw,
        sources: Iterable[Path | str] = (),
        fps: float = 25.0,
        outputs: SharedOutput | None = None,
    ) -> None:
        require_rate(fps)
        self._draw = draw
        self._fps = fps
        self._output = OutputFolder(folder, sources, outputs)
        self._stills = ExitStack()
        self._stills_video: VideoFile | None = None
        self._stream = ExitStack()
        self._stream_video: VideoFile | None = None
        self._last: Frame | None = None
        self._told_of_codec = False

    def write(self, frame: Frame, result: Any) -> None:
        """Append one image.

        Raises:
            ValueError: the image is not as large as the first one of its video.
            SaveError: the video cannot be written.
        """
        image = self._draw(frame, result)
        if frame.stream is None:
            self._stills_video = self._stills_video or self._open(self._stills, frame, self._fps, STILLS)
            return self._stills_video.append(image, frame.source)
        if self._last is None or not frame.follows(self._last):
            self.end_source()
        try:
            if self._stream_video is None:
                self._stream_video = self._open(self._stream, frame, frame.stream.fps)
            self._stream_video.append(image, frame.source, frame.time_s)
        except BaseException:
            self._drop_stream(*sys.exc_info())
            raise
        self._last = frame

    def end_source(self) -> None:
        """Complete the video of a source; nothing happens where there is none.

        Raises:
            SaveError: the video cannot be written.
        """
        self._stream_video = self._last = None
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.__exit__(kind, error, trace)
        finally:
            self._stills.__exit__(kind, error, trace)

    def _drop_stream(self, *failure: Any) -> None:
        self._stream_video = self._last = None
        self._stream.__exit__(*failure)

    def _open(self, files: ExitStack, frame: Frame, fps: float, stem: str | None = None) -> VideoFile:
        is_video = frame.stream is not None
        path = self._output.path_for(frame, ".mp4", stem or frame.stem)
        has_av = importlib.util.find_spec("av") is not None
        if is_video and not has_av and not self._told_of_codec:
            self._told_of_codec = True
            warnings.warn(
                "without the package av drawn videos are MPEG-4, of a constant rate and without sound; H.264 with the "
                "times and the sound of the original: pip install 'detseg[video]'",
                stacklevel=2,
            )
        rate = min(max(fps, MIN_FPS), MAX_FPS)
        aspect = frame.stream.pixel_aspect if frame.stream is not None else Fraction(1)
        video: VideoFile
        if has_av:
            video = H264Video(path, rate, frame.path if is_video else None, aspect)
        else:
            video = OpenCVVideo(path, rate, aspect)
        if is_video:
            # Entered first, so left last: when the file is whole.
            files.push(lambda kind, *_: self._output.written(path, frame) if kind is None else None)
        files.enter_context(video)
        return video


class DrawnWriter:
    """Frames of videos go to ``videos``, still images to ``images``."""

    def __init__(self, images: ResultWriter, videos: ResultWriter) -> None:
        self._images = images
        self._videos = videos
        self._both = ExitStack()

    def write(self, frame: Frame, result: Any) -> None:
        """Write one image, or append it to its video."""
        (self._images if frame.stream is None else self._videos).write(frame, result)

    def end_source(self) -> None:
        """Complete what is written of a source."""
        for writer in (self._images, self._videos):
            writer.end_source()

    def __enter__(self) -> Self:
        for writer in (self._images, self._videos):
            self._both.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._both.__exit__(kind, error, trace)


class TableFile:
    """A text file that grows image by image, see :class:`detseg.runtime.writers.growing.GrowingText`."""

    def __init__(self, path: Path, begin: str = "", *, goes_on: bool = False) -> None:
        self._text = GrowingText(path, begin, goes_on=goes_on)

    def end_source(self) -> None:
        """The file holds all sources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.__exit__(kind, error, trace)


class JsonLinesWriter(TableFile):
    """Writes a JSON object per image, each in a line of its own: ``file``, ``height``, ``width``, of frames of videos
    ``frame`` and ``time_s``, and what ``record`` makes of its result.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, record: Callable[[Any], dict[str, Any]], *, goes_on: bool = False) -> None:
        super().__init__(Path(path), goes_on=goes_on)
        self._record = record

    def write(self, frame: Frame, result: Any) -> None:
        """Take the result of one image."""
        height, width = frame.pixels.shape[:2]
        line: dict[str, Any] = {"file": frame.source, "height": height, "width": width}
        if frame.index is not None:
            line |= {"frame": frame.index, "time_s": rounded(frame.time_s or 0.0)}
        self._text.write(json.dumps(line | self._record(result), allow_nan=False) + "\n")


def reduce_to_draw(image: ByteArray) -> tuple[ByteArray, int]:
    """``image`` with every row and column; or where it has more pixels than are decoded as a whole, the first of every
    second, third, ..., so that ``_MAX_DRAWN`` are left at most, and that factor: what is drawn is a copy in memory."""
    num_pixels = image.shape[0] * image.shape[1]
    if num_pixels <= MAX_PIXELS:
        return image, 1
    factor = math.ceil(math.sqrt(num_pixels / _MAX_DRAWN))
    reduced = np.ascontiguousarray(image[::factor, ::factor])
    let_go(image)
    return reduced, factor


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """``rows`` as lines of a CSV, with text that no spreadsheet takes for a formula."""
    text = io.StringIO()
    cells = ([as_text_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def or_empty(value: float | None) -> float | str:
    """``value``, rounded; nothing where there is none."""
    return "" if value is None else rounded(value)


def rounded(value: float) -> float:
    """Without the digits that a float32 does not have."""
    return value if isinstance(value, int) else float(f"{value:.7g}")
