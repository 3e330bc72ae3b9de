"""What runs a network over images, whatever it is: torch on a CPU or a GPU, or ONNX Runtime; and frames through it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detseg.arrays import BoolArray
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Kind
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
    runner: Runner, frames: Iterable[Frame], batch_size: int = 1, kept: BoolArray | None = None
) -> Iterator[tuple[Frame, Result]]:
    """The result for each of ``frames``, in their order; at most ``batch_size`` frames for each batch that the runner
    works on at a time are held, so they may be endless. Volumes, which are of any size, go through one at a time, and
    so do frames of what is live, such as a camera: each result is given before the next frame is taken. ``kept``: see
    :meth:`Runner.submit`.

    Raises:
        ValueError: if ``batch_size`` is below 1 or an image is none.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    # A generator function would check its arguments only when the first result is asked for.
    return _predict(runner, iter(frames), batch_size if runner.spec.one_size else 1, kept)


def _predict(
    runner: Runner, frames: Iterator[Frame], batch_size: int, kept: BoolArray | None
) -> Iterator[tuple[Frame, Result]]:
    waiting: deque[tuple[Sequence[Frame], Pending]] = deque()
    for batch in _batches(frames, runner.spec, batch_size):
        images = [frame.image for frame in batch]
        waiting.append((batch, runner.submit(images) if kept is None else runner.submit(images, kept)))
        while len(waiting) == runner.max_in_flight or (waiting and batch[-1].is_live):
            yield from _results(*waiting.popleft())
    while waiting:
        yield from _results(*waiting.popleft())


def _batches(frames: Iterator[Frame], spec: Any, batch_size: int) -> Iterator[list[Frame]]:
    """``frames`` in their order, as many together as have inputs of one size, at most ``batch_size``; live ones each by
    itself."""
    batch: list[Frame] = []
    for frame in frames:
        if batch and (frame.is_live or spec.input_shape(frame.image) != spec.input_shape(batch[0].image)):
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == batch_size or frame.is_live:
            yield batch
            batch = []
    if batch:
        yield batch


def _results(frames: Sequence[Frame], pending: Pending) -> Iterator[tuple[Frame, Result]]:
    return zip(frames, pending.results(), strict=True)
