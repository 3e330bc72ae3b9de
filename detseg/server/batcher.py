"""Images of many requests, put together for the network."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from detseg.arrays import ByteArray
from detseg.runtime.runner import Pending, Runner
from detseg.structures import Result


@dataclass(slots=True)
class _Waiting:
    """An image that waits for the network."""

    image: ByteArray
    shape: tuple[int, int]
    since: float
    future: Future[Result] = field(default_factory=Future)


class Batcher:
    """Takes images from any thread, and hands them to ``runner`` in batches of at most ``batch_size`` whose inputs
    have one size.

    A batch begins when the runner can take one, with the image that has waited longest. Others of its size go with
    it; for more of them it waits only until its first image is ``wait_s`` seconds old. So nothing waits where there
    is nothing to wait for, and under load batches fill by themselves. ``on_batch`` is told the size of each batch and
    how many seconds it took.

    A batch that fails is tried once more, image by image, so that each pays for its own faults only.
    """

    def __init__(
        self,
        runner: Runner,
        batch_size: int,
        wait_s: float,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._runner = runner
        self._spec: Any = runner.spec
        self._batch_size = batch_size
        self._wait_s = wait_s
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._free = threading.Semaphore(runner.max_in_flight)
        self._deliveries = ThreadPoolExecutor(runner.max_in_flight, thread_name_prefix="deliver")
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Images that are in no batch yet."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether images that come are worked on."""
        return self._thread.is_alive() and not self._closed

    def submit(self, image: ByteArray) -> Future[Result]:
        """The result for ``image``, ``[H, W, 3]`` uint8 RGB, once it is there.

        Raises:
            ValueError: it is no image.
            RuntimeError: the batcher is closed.
        """
        waiting = _Waiting(image, self._spec.input_shape(image), time.monotonic())
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping and takes no more images")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Take no more, and return when all that was taken is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._deliveries.shutdown()

    def _run(self) -> None:
        while True:
            self._free.acquire()
            batch = self._next()
            if not batch:
                return
            begin = time.monotonic()
            pending: Pending | Exception
            try:
                pending = self._runner.submit([one.image for one in batch])
            except Exception as error:  # noqa: BLE001 - goes to those who asked
                pending = error
            self._deliveries.submit(self._deliver, batch, pending, begin)

    def _next(self) -> list[_Waiting]:
        """The next batch, as soon as it is due; empty when the batcher is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            first = self._waiting[0]
            due = first.since + self._wait_s
            while not self._closed and (left := due - time.monotonic()) > 0 and not self._is_full(first.shape):
                self._changed.wait(left)
            batch = [one for one in self._waiting if one.shape == first.shape][: self._batch_size]
            chosen = set(map(id, batch))
            self._waiting = deque(one for one in self._waiting if id(one) not in chosen)
        return batch

    def _is_full(self, shape: tuple[int, int]) -> bool:
        return sum(one.shape == shape for one in self._waiting) >= self._batch_size

    def _deliver(self, batch: Sequence[_Waiting], pending: Pending | Exception, begin: float) -> None:
        try:
            found = _results(pending)
        except Exception as error:  # noqa: BLE001 - goes to those who asked
            self._deliver_failed(batch, error)
        else:
            for one, result in zip(batch, found, strict=True):
                one.future.set_result(result)
        finally:
            self._free.release()
        self._on_batch(len(batch), time.monotonic() - begin)

    def _deliver_failed(self, batch: Sequence[_Waiting], error: Exception) -> None:
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for one in batch:
            try:
                (found,) = self._runner.submit([one.image]).results()
            except Exception as fault:  # noqa: BLE001 - goes to who asked
                one.future.set_exception(fault)
            else:
                one.future.set_result(found)


def _results(pending: Pending | Exception) -> Sequence[Result]:
    if isinstance(pending, Exception):
        raise pending
    return pending.results()
