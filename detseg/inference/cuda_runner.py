"""Batches of images through a model on a GPU: copied as they are, and everything else in one CUDA graph.

Two batches are on their way at a time: while the GPU works on one, the host makes results of the one before and packs
the next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, cast

import torch
from torch import Tensor, nn

from detseg.arrays import BoolArray, ByteArray
from detseg.inference.compiled import CompiledNetwork
from detseg.inference.cuda_stream import CudaStream, Stream
from detseg.inference.forking import require_process
from detseg.ops.letterbox import TABLE_COLUMNS, bytes_needed, letterbox_into, pack_images
from detseg.runtime.inputs.geometry import InputSpec, check_image
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.structures import LetterboxTransform, Result
from detseg.tasks.base import Task

MAX_BYTES = 1 << 27
"""Of the images of a batch that are on the GPU at a time: 21 of 1920 x 1080 pixels."""
_MAX_PROGRAMS = 6
"""Graphs that a slot keeps, each with its memory."""


class CudaRunner:
    """Runs ``model``, which is on ``device`` and takes ``dtype``. See :class:`detseg.runtime.runner.Runner`.

    Letterbox, normalization, model and what ``task`` does with its output are one CUDA graph, captured with the first
    batch of its kind: of 1, 2, 4, 8, ... places, so that a small batch does not pay for a large one, with or without a
    choice of classes; and again when images are larger than any before. A batch that fills no graph has nothing in its
    last places. ``make_stream`` gives the streams of work.

    Images lie one behind the other in page-locked memory and in that of the GPU, of ``MAX_BYTES`` at the most, or one
    image: a batch of larger ones is worked on in several parts.

    Threads may share a runner: a batch has its memory for itself until its results are made, by whoever asks for them
    or needs the memory next. Results that nobody asks for hold nothing up.

    ``is_compiled``: the graphs hold what ``torch.compile`` makes of the model, fewer and larger kernels; each graph
    then takes up to minutes to capture.
    """

    max_in_flight = 2
    default_batch_size = 16

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device,
        dtype: torch.dtype,
        make_stream: Callable[[torch.device], Stream] = CudaStream,
        *,
        is_compiled: bool = False,
    ) -> None:
        assert task.spec.one_size, "volumes have no common size: they take the eager runner"
        self.spec: InputSpec | VolumeSpec = task.spec
        self.kind = task.kind
        call = CompiledNetwork(model) if is_compiled else model
        network = _Network(call, task, cast(InputSpec, task.spec), device, dtype)
        self._slots = cycle([_Slot(network, make_stream(device)) for _ in range(self.max_in_flight)])
        self._turn = threading.Lock()
        self._process = os.getpid()

    def submit(self, images: Sequence[ByteArray], kept: BoolArray | None = None) -> PendingBatch | PendingParts:
        """Start with a batch of images ``[H, W, 3]`` uint8 RGB of any sizes; they may change once this returns. Where a
        result holds a limited number of objects, these are of the classes that are ``kept``, ``[C]``.

        It takes the memory of the batch before the last one, whose results are fetched now where nobody has asked for
        them yet.

        Raises:
            ValueError: there are no images, or one is none.
            RuntimeError: the model or the task cannot be captured in a CUDA graph, or Triton is missing, or this
                process was forked from the one that made the runner.
        """
        if not images:
            raise ValueError("a batch needs at least one image, got none")
        for image in images:
            check_image(image)
        require_process(self._process)
        parts = []
        for part in _parts(images):
            with self._turn:
                slot = next(self._slots)
            parts.append(slot.submit(part, kept))
        return parts[0] if len(parts) == 1 else PendingParts(parts)


class PendingParts:
    """A batch that was worked on in ``parts``."""

    def __init__(self, parts: Sequence[PendingBatch]) -> None:
        self._parts = parts

    def results(self) -> list[Result]:
        """See :meth:`PendingBatch.results`."""
        return [result for part in self._parts for result in part.results()]


class PendingBatch:
    """A batch on its way through a :class:`CudaRunner`, whose memory ``lock`` guards."""

    def __init__(self, fetch: Callable[[], list[Result]], lock: threading.RLock) -> None:
        self._fetch: Callable[[], list[Result]] | None = fetch
        self._lock = lock
        self._results: list[Result] | None = None
        self._error: Exception | None = None

    def results(self) -> list[Result]:
        """Wait for the batch; one result per image, in pixels of the original. What went wrong with it is raised here,
        each time."""
        self.finish()
        if self._error is not None:
            raise self._error
        assert self._results is not None, "it was interrupted, and its memory is used again"
        return self._results

    def finish(self) -> None:
        """Wait for the batch and keep its results, or the error, so that its memory can be used again."""
        if self._results is not None or self._error is not None:
            return  # without waiting for a later batch that is in its memory now
        with self._lock:
            if self._fetch is None:
                return
            fetch, self._fetch = self._fetch, None
            try:
                self._results = fetch()
            except Exception as error:  # noqa: BLE001 - raised by results, to whom the batch belongs
                self._error = error


@dataclass(frozen=True)
class _Network:
    """What the slots share: the model with its task, and the form of its input."""

    model: nn.Module | CompiledNetwork
    task: Task
    spec: InputSpec
    device: torch.device
    dtype: torch.dtype


class _Slot:
    """The way of a batch: a stream of its own, memory on the host and on the GPU, and the graph that works on it. All
    of it belongs to whoever holds its lock."""

    def __init__(self, network: _Network, stream: Stream) -> None:
        self._network = network
        self._stream = stream
        self._lock = threading.RLock()
        self._programs: dict[tuple[int, bool], _Program] = {}
        self._batch: PendingBatch | None = None

    def submit(self, images: Sequence[ByteArray], kept: BoolArray | None) -> PendingBatch:
        with self._lock:
            if self._batch is not None:
                self._batch.finish()
            return self._start(images, kept)

    @torch.inference_mode()
    def _start(self, images: Sequence[ByteArray], kept: BoolArray | None) -> PendingBatch:
        program = self._program_for(images, kept)
        transforms = program.start(images, kept)
        self._batch = PendingBatch(lambda: self._fetch(program, transforms), self._lock)
        return self._batch

    def _program_for(self, images: Sequence[ByteArray], kept: BoolArray | None) -> _Program:
        num_places = 1 << (len(images) - 1).bit_length()
        key = (num_places, kept is not None)
        program = self._programs.pop(key, None)
        if program is None or not program.has_room(images):
            program = None  # its memory is free for the next one
            if len(self._programs) == _MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            num_classes = None if kept is None else len(kept)
            program = _Program(self._network, self._stream, num_places, bytes_needed(images), num_classes)
        self._programs[key] = program  # last: it was used last
        return program

    @torch.inference_mode()
    def _fetch(self, program: _Program, transforms: Sequence[LetterboxTransform]) -> list[Result]:
        self._batch = None
        outputs = _first_rows(program.outputs, len(transforms))
        return self._stream.finish(lambda: self._network.task.results(outputs, transforms))


class _Program:
    """A captured graph with the memory that it reads and writes, for ``batch_size`` images that together have
    ``num_bytes``, or twice that at most; ``num_classes`` of which only some are kept, None where all are."""

    def __init__(
        self, network: _Network, stream: Stream, batch_size: int, num_bytes: int, num_classes: int | None
    ) -> None:
        self._capacity = 1 << (num_bytes - 1).bit_length()  # a power of two: images vary, captures should be few
        self._network = network
        self._stream = stream
        spec, device = network.spec, network.device
        on_gpu = device.type == "cuda"
        self._pixels = torch.empty(self._capacity, dtype=torch.uint8, pin_memory=on_gpu)
        self._table = torch.zeros((batch_size, TABLE_COLUMNS), dtype=torch.int64, pin_memory=on_gpu)
        self._device_pixels = torch.empty(self._capacity, dtype=torch.uint8, device=device)
        self._device_table = torch.zeros((batch_size, TABLE_COLUMNS), dtype=torch.int64, device=device)
        self._inputs = torch.empty(
            (batch_size, 3, spec.height, spec.width),
            dtype=network.dtype,
            device=device,
            memory_format=network.task.memory_format,
        )
        self._task = network.task
        self._kept: Tensor | None = None
        if num_classes is not None:
            self._kept = torch.ones(num_classes, dtype=torch.bool, pin_memory=on_gpu)
            self._device_kept = torch.ones(num_classes, dtype=torch.bool, device=device)
            self._task = network.task.only(self._device_kept)
        self._replay, self.outputs = stream.capture(self._infer)

    def has_room(self, images: Sequence[ByteArray]) -> bool:
        """Whether there is memory for ``images``."""
        return bytes_needed(images) <= self._capacity

    def start(self, images: Sequence[ByteArray], kept: BoolArray | None) -> list[LetterboxTransform]:
        """Begin with ``images``; the way back for each."""
        if self._kept is not None:
            self._kept.copy_(torch.from_numpy(kept))
        transforms = pack_images(images, self._network.spec, self._pixels, self._table)
        num_bytes = bytes_needed(images)

        def copy_and_replay() -> None:
            self._device_pixels[:num_bytes].copy_(self._pixels[:num_bytes], non_blocking=True)
            self._device_table.copy_(self._table, non_blocking=True)
            if self._kept is not None:
                self._device_kept.copy_(self._kept, non_blocking=True)
            self._replay()

        self._stream.put(copy_and_replay)
        return transforms

    def _infer(self) -> Any:
        network = self._network
        letterbox_into(self._device_pixels, self._device_table, network.spec, self._inputs)
        return self._task.infer(cast(nn.Module, network.model), self._inputs)


def _parts(images: Sequence[ByteArray]) -> Iterator[Sequence[ByteArray]]:
    """``images`` in order, as many together as ``MAX_BYTES`` hold, at least one."""
    first = 0
    for end in range(1, len(images) + 1):
        if end == len(images) or bytes_needed(images[first : end + 1]) > MAX_BYTES:
            yield images[first:end]
            first = end


def _first_rows(outputs: Any, count: int) -> Any:
    if isinstance(outputs, Tensor):
        return outputs[:count]
    return tuple(output[:count] for output in outputs)
