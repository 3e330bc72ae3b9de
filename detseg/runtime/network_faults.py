"""What to do where a network fails: a source that it cannot take is left out, a network that takes nothing is at fault
itself."""

from __future__ import annotations

import cv2
import numpy as np

from detseg.runtime.media.images import ImageError
from detseg.runtime.sources.finding import OnError, Source
from detseg.runtime.sources.frames import Frame

MAX_AT_FIRST = 3
"""Sources that may fail before the first one went through; if none does, the network is at fault."""
MAX_IN_A_ROW = 100
"""Sources that may fail one after the other."""

FAULTS = (ValueError, RuntimeError, MemoryError, cv2.error)
"""What one image may bring about in a network: no memory for it, a size that it does not take, an operator that
fails. ONNX Runtime's own errors are ValueErrors here."""
_OF_THE_DEVICE = ("AcceleratorError",)
"""After these, by the names that torch has for them, a GPU takes nothing more from this process."""


class NetworkError(ImageError):
    """The network fails on an image; the message begins with its source."""


class NetworkFaults:
    """Decides what a fault costs: told to ``on_error``, it costs its source. The first faults are told when something
    has gone through the network. ``given_up`` are the videos, by source, of which no more frames are wanted."""

    def __init__(self, on_error: OnError) -> None:
        self.given_up: set[str] = set()
        self._on_error = on_error
        self._waiting: list[tuple[Source, NetworkError]] = []
        self._has_worked = False
        self._num_in_a_row = 0

    def add(self, frame: Frame, error: Exception) -> None:
        """The network has failed on ``frame`` alone.

        Raises:
            NetworkError: it fails on all that it gets.
            RuntimeError: ``error``, where that is one of a device.
        """
        if type(error).__name__ in _OF_THE_DEVICE:
            raise error
        if frame.source in self.given_up:
            return
        if frame.index is not None:
            self.given_up.add(frame.source)
        fault = NetworkError(f"{frame.source or 'an image'}: the network fails on it: {first_line(error)}")
        self._num_in_a_row += 1
        if self._has_worked:
            self._on_error(_source_of(frame), fault)
        else:
            self._waiting.append((_source_of(frame), fault))
        if self._num_in_a_row == (MAX_IN_A_ROW if self._has_worked else MAX_AT_FIRST):
            raise self._of_all(fault) from error

    def worked(self) -> None:
        """Something has gone through the network."""
        self._has_worked, self._num_in_a_row = True, 0
        while self._waiting:
            self._on_error(*self._waiting.pop(0))

    def end(self) -> None:
        """There are no more frames. Raises NetworkError where the network has failed on all of them."""
        if self._waiting:
            raise self._of_all(self._waiting[-1][1])

    def _of_all(self, last: NetworkError) -> NetworkError:
        if self._num_in_a_row == 1:
            return last
        which = "the last" if self._has_worked else "all of"
        return NetworkError(f"{last}; it has failed on {which} {self._num_in_a_row} sources, so that the run ends here")


def _source_of(frame: Frame) -> Source:
    if frame.path is not None:
        if frame.index is not None:
            return Source("video", frame.source, frame.path)
        return Source("image" if isinstance(frame.image, np.ndarray) else "volume", frame.source, frame.path)
    if frame.source.startswith("camera") and "://" not in frame.source:
        return Source("camera", frame.source.removeprefix("camera"))
    return Source("image" if frame.index is None else "stream", frame.source)


def first_line(error: Exception) -> str:
    """What ``error`` says, without what stands below."""
    return next(iter(str(error).splitlines()), type(error).__name__)
