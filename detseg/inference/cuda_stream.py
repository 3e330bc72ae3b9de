"""A stream of work for a GPU, and CUDA graphs in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")

_WARM_UP_RUNS = 3
_capturing = threading.Lock()
"""Captures wait for the whole device and give memory back, which must not happen during another one."""


class Stream(Protocol):
    """Work that is done in its order, while the host goes on. It is used by one thread at a time; several streams may
    be used by several."""

    def put(self, work: Callable[[], object]) -> None:
        """Do ``work`` after all that was put before; the host does not wait."""

    def finish(self, work: Callable[[], T]) -> T:
        """What ``work`` gives after all that was put before; the host waits until everything is done."""

    def capture(self, program: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """``program``, which reads and writes tensors at fixed places -> a function that does the same again, for
        :meth:`put`, and the tensors that it writes its outputs to each time."""


class CudaStream:
    """A stream of ``device``. See :class:`Stream`."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def put(self, work: Callable[[], object]) -> None:
        """Launch ``work`` in this stream."""
        with torch.cuda.stream(self._stream):
            work()

    def finish(self, work: Callable[[], T]) -> T:
        """Run ``work`` in this stream and wait for all of it."""
        try:
            with torch.cuda.stream(self._stream):
                return work()
        finally:
            # Whatever happened: memory that the stream still reads must not be written by the host.
            self._stream.synchronize()

    def capture(self, program: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """``program`` as a CUDA graph, after some runs in which kernels are compiled and libraries set themselves up.

        Raises:
            RuntimeError: ``program`` does what a graph cannot, such as waiting for the host.
        """
        with _capturing:
            return self._capture(program)

    def _capture(self, program: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        # What the program reads may still be on its way in the caller's stream, such as the model.
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS):
                program()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which read files or train, may go on with what would disturb a capture of their own.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = program()
            # Graphs of one stream run one after the other, and may use the same memory for what lies in between.
            self._pool = graph.pool()
        except RuntimeError as error:
            raise RuntimeError(
                f"this model and task cannot be captured in a CUDA graph: {error}; predict without one "
                "(cuda_graph=False), or choose a postprocessing that does not wait for the host, such as "
                "nms_backend=detseg"
            ) from error
        return graph.replay, outputs
