"""Results as text: files that are written entry by entry, and appear when they are complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from detseg.files import atomic_path
from detseg.runtime.media.frames import Frame


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
