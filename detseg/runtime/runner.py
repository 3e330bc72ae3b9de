"""What runs a network over images, whatever it is: torch on a CPU or a GPU, or ONNX Runtime; and frames through it."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detseg.arrays import BoolArray
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Kind
from detseg.runtime.network_faults import FAULTS, NetworkFaults, first_line
from detseg.runtime.sources.frames import Frame
from detseg.structures import Result


class Pending(Protocol):
    """A batch that is on its way."""

    def results(self) -> Sequence[Result]:
        """Wait for the batch; one result per image, in pixels or voxels of the original."""


class Runner(Protocol):
    """Takes batches of images as they were read and gives their results, batch after batch. Several threads may use it
    at once: each batch gets the results of its own images, and results that nobody asks for hold nothing up."""

    spec: InputSpec | VolumeSpec
    """How files are read and placed in the input."""
    kind: Kind
    """What the results are."""
    max_in_flight: int
    """How many batches it works on at a time: before a further one is handed in, the results of the oldest must have
    been asked for."""

    default_batch_size: int
    """How many images make a batch where the user does not say."""

    def submit(self, images: Sequence[Any], kept: BoolArray | None = None) -> Pending:
        """Start with a batch of images ``[H, W, 3]`` uint8 RGB whose inputs, by ``spec``, have one size, or of
        volumes. Where a result holds a limited number of objects, these are of the classes that are ``kept``,
        ``[C]``."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch whose results are there already."""

    found: Sequence[Result]

    def results(self) -> Sequence[Result]:
        """The results; nothing is waited for."""
        return self.found


class TimedRunner:
    """A runner that also says for how many ``seconds`` it, or who waited for it, was at work."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seconds = 0.0
        self.spec = runner.spec
        self.kind = runner.kind
        self.max_in_flight = runner.max_in_flight
        self.default_batch_size = runner.default_batch_size

    def submit(self, images: Sequence[Any], kept: BoolArray | None = None) -> Pending:
        """Start with a batch."""
        begin = time.perf_counter()
        pending = self._runner.submit(images, kept)
        self.seconds += time.perf_counter() - begin
        return _TimedPending(self, pending)


@dataclass(frozen=True, slots=True)
class _TimedPending:
    runner: TimedRunner
    pending: Pending

    def results(self) -> Sequence[Result]:
        """Wait for the batch."""
        begin = time.perf_counter()
        found = self.pending.results()
        self.runner.seconds += time.perf_counter() - begin
        return found


def predict_frames(
    runner: Runner,
    frames: Iterable[Frame],
    batch_size: int = 1,
    kept: BoolArray | None = None,
    faults: NetworkFaults | None = None,
) -> Iterator[tuple[Frame, Result]]:
    """The result for each of ``frames``, in their order; at most ``batch_size`` frames for each batch that the runner
    works on at a time are held, so they may be endless. Volumes, which are of any size, go through one at a time, and
    so do frames of what is live, such as a camera: each result is given before the next frame is taken. ``kept``: see
    :meth:`Runner.submit`.

    Where a batch fails, its images are tried one at a time, and ``faults`` is told of those that fail alone; the rest
    goes on. Frames of what it has given up are passed over.

    Raises:
        ValueError: if ``batch_size`` is below 1 or an image is none.
        NetworkError: the runner fails on all that it gets.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    # A generator function would check its arguments only when the first result is asked for.
    return _Run(runner, batch_size if runner.spec.one_size else 1, kept, faults).results(iter(frames))


class _Run:
    """Frames through ``runner``, see :func:`predict_frames`."""

    def __init__(self, runner: Runner, batch_size: int, kept: BoolArray | None, faults: NetworkFaults | None) -> None:
        self._runner = runner
        self._batch_size = batch_size
        self._kept = kept
        self._faults = faults
        self._waiting: deque[tuple[Sequence[Frame], Pending]] = deque()

    def results(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Result]]:
        for batch in self._batches(frames):
            self._waiting.append((batch, self._submit(batch)))
            while len(self._waiting) == self._runner.max_in_flight or (self._waiting and batch[-1].is_live):
                yield from self._next()
        while self._waiting:
            yield from self._next()
        if self._faults is not None:
            self._faults.end()

    def _batches(self, frames: Iterator[Frame]) -> Iterator[list[Frame]]:
        """``frames`` in their order, as many together as have inputs of one size, at most as make a batch; live ones
        each by itself."""
        spec: Any = self._runner.spec
        batch: list[Frame] = []
        for frame in frames:
            if self._is_given_up(frame):
                continue
            if batch and (frame.is_live or spec.input_shape(frame.image) != spec.input_shape(batch[0].image)):
                yield batch
                batch = []
            batch.append(frame)
            if len(batch) >= self._batch_size or frame.is_live:
                yield batch
                batch = []
        if batch:
            yield batch

    def _submit(self, frames: Sequence[Frame]) -> Pending:
        images = [frame.image for frame in frames]
        try:
            return self._runner.submit(images) if self._kept is None else self._runner.submit(images, self._kept)
        except FAULTS as error:
            if self._faults is None:
                raise
            return _Failed(error)

    def _next(self) -> Iterator[tuple[Frame, Result]]:
        """The results of the batch that has waited longest."""
        frames, pending = self._waiting.popleft()
        if self._faults is None:
            yield from zip(frames, pending.results(), strict=True)
            return
        settled = _settled(pending)
        if isinstance(settled, Finished):
            self._faults.worked()
            yield from self._wanted(frames, settled)
            return
        # Nothing may wait while others are handed in.
        self._waiting = deque((others, _settled(one)) for others, one in self._waiting)
        yield from self._one_by_one(frames, settled)

    def _one_by_one(self, frames: Sequence[Frame], failed: _Failed) -> Iterator[tuple[Frame, Result]]:
        assert self._faults is not None
        num_failed = 0
        for frame in frames:
            settled = failed if len(frames) == 1 else _settled(self._submit([frame]))
            if isinstance(settled, Finished):
                self._faults.worked()
                yield from self._wanted([frame], settled)
            else:
                num_failed += 1
                self._faults.add(frame, settled.error)
        if not num_failed and self._batch_size > 1:
            warnings.warn(
                f"images go through the network one at a time from here on: {len(frames)} together failed "
                f"({first_line(failed.error)})",
                stacklevel=2,
            )
            self._batch_size = 1

    def _wanted(self, frames: Sequence[Frame], finished: Finished) -> Iterator[tuple[Frame, Result]]:
        pairs = zip(frames, finished.found, strict=True)
        return (pair for pair in pairs if not self._is_given_up(pair[0]))

    def _is_given_up(self, frame: Frame) -> bool:
        return self._faults is not None and frame.source in self._faults.given_up


@dataclass(frozen=True, slots=True)
class _Failed:
    """A batch that the network has failed on."""

    error: Exception

    def results(self) -> Sequence[Result]:
        """Raise the error."""
        raise self.error


def _settled(pending: Pending) -> Finished | _Failed:
    """Wait for ``pending``."""
    if isinstance(pending, Finished | _Failed):
        return pending
    try:
        return Finished(pending.results())
    except FAULTS as error:
        return _Failed(error)
