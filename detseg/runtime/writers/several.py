"""Several writers at once, of which none ends the work of the others, nor one source that of the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import cv2

from detseg.files import SaveError
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import ResultWriter

OnFault = Callable[[Frame, Exception], None]
"""Is told of the source (by its last image) of which something could not be written, and why."""

_FAULTS = (ValueError, OSError, MemoryError, cv2.error)


class SeveralWriters:
    """Hands each result to all of ``writers``. Where one of them cannot write it, this costs its file of this source:
    ``on_fault`` is told, and all else goes on. A full disk is no fault of a source, and raised. ``on_end`` is told of a
    source, by its last image, when all that belongs to it has been written.

    ``seconds`` is how long writing has taken so far.

    Raises:
        SaveError: the disk is full.
    """

    def __init__(
        self,
        writers: Sequence[ResultWriter],
        on_fault: OnFault,
        on_end: Callable[[Frame], None] = lambda frame: None,
    ) -> None:
        self._writers = list(writers)
        self._on_fault = on_fault
        self._on_end = on_end
        self._given_up: list[ResultWriter] = []
        self._last: Frame | None = None
        self._open = ExitStack()
        self.seconds = 0.0

    def write(self, frame: Frame, result: Any) -> None:
        """Write the result of one image."""
        begin = time.perf_counter()
        # A still image is a source of its own.
        if self._last is not None and (frame.index is None or not frame.follows(self._last)):
            self._end_source(self._last)
        self._last = frame
        for writer in self._writers:
            if writer not in self._given_up and not self._do(frame, writer.write, frame, result):
                self._given_up.append(writer)
        self.seconds += time.perf_counter() - begin

    def __enter__(self) -> Self:
        for writer in self._writers:
            self._open.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begin = time.perf_counter()
        try:
            if kind is None and self._last is not None:
                self._end_source(self._last)
        except BaseException as failure:
            self._open.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._open.__exit__(kind, error, trace)
        self.seconds += time.perf_counter() - begin

    def _end_source(self, last: Frame) -> None:
        for writer in self._writers:
            self._do(last, writer.end_source)
        self._given_up.clear()
        self._on_end(last)

    def _do(self, frame: Frame, action: Callable[..., None], *arguments: Any) -> bool:
        try:
            action(*arguments)
        except _FAULTS as error:
            if isinstance(error, SaveError) and error.disk_is_full:
                raise
            self._on_fault(frame, error)
            return False
        return True
