"""Iterating ahead in a thread, so that reading, computing and writing overlap."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar

Item = TypeVar("Item")

_CHECK_S = 0.1
"""How often a thread that waits looks whether it shall stop."""
_PATIENCE_S = 2.0
"""How long a thread that shall stop is waited for where it may be waiting itself, for a camera or a network."""


class _End:
    """What ends a queue: with the error of the other side, if there was one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Weighed(NamedTuple):
    """What waits in a queue is weighed by ``weigh``; once that is ``most`` together, nothing more is let in, however
    few they are. One may always wait."""

    weigh: Callable[[Any], int]
    most: int


class _Waiting(queue.Queue[Any]):
    """A queue of at most ``size`` items, and where they are ``weighed`` no more than these may weigh."""

    def __init__(self, size: int, weighed: Weighed | None) -> None:
        super().__init__(size)
        self._weighed = weighed

    def _qsize(self) -> int:
        count = super()._qsize()
        if self._weighed is None or not count:
            return count
        weight = sum(self._weighed.weigh(item) for item in self.queue if not isinstance(item, _End))
        return max(count, self.maxsize) if weight >= self._weighed.most else count


def iterate_ahead(
    items: Iterable[Item],
    size: int,
    overtake: Callable[[Item, Item], Item | None] | None = None,
    stop: threading.Event | None = None,
    weighed: Weighed | None = None,
) -> Iterator[Item]:
    """``items``, in their order, taken by a thread of its own that is at most ``size`` of them ahead, fewer where they
    are ``weighed`` and too heavy.

    ``overtake(last, new)`` may give what takes the place of the last one that waits, instead of waiting behind it; None
    where ``new`` waits too.

    An error of ``items`` is raised where it would have been. When this iterator is closed early, the thread stops
    before its next item, and ``items`` is closed. Once ``stop`` is set, there are no more items, even where the thread
    waits for one that may never come; then it is left alone.

    Raises:
        RuntimeError: this process was forked after the iterator began, and so has no such thread.
    """
    process = os.getpid()
    waiting: queue.Queue[Item | _End] = _Waiting(size, weighed)
    stopped = threading.Event()

    def overtakes(item: Item) -> bool:
        if overtake is None:
            return False
        with waiting.mutex:
            last = waiting.queue[-1] if waiting.queue else None
            if last is None or isinstance(last, _End) or (merged := overtake(last, item)) is None:
                return False
            waiting.queue[-1] = merged
            return True

    def put(item: Item | _End) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=_CHECK_S)
            except queue.Full:
                continue

    def run() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not overtakes(item):
                    put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised again on the other side
            put(_End(error))
        else:
            put(_End())
        finally:
            if close := getattr(iterator, "close", None):
                close()

    thread = threading.Thread(target=run, name="iterate-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := _get(waiting, stop), _End):
            yield item
            _require_process(process)
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join(_PATIENCE_S if stop is not None and stop.is_set() else None)


def _get(waiting: queue.Queue[Item | _End], stop: threading.Event | None) -> Item | _End:
    if stop is None:
        return waiting.get()
    while not stop.is_set():
        try:
            return waiting.get(timeout=_CHECK_S)
        except queue.Empty:
            continue
    return _End()


def _require_process(process: int) -> None:
    if os.getpid() != process:
        raise RuntimeError(
            "this was begun before the process was forked, and its thread is in the parent only: begin again here"
        )


class Sink(Generic[Item]):
    """A thread that consumes items in order, at most ``size`` of which wait, fewer where they are ``weighed`` and too
    heavy; a context manager, done when it is left.

    An error of ``consume`` is raised by the next ``put`` or on leaving, and nothing is consumed after it. Where the
    ``with`` block ends in an exception, the items that still wait are dropped.
    """

    def __init__(self, consume: Callable[[Item], None], size: int, weighed: Weighed | None = None) -> None:
        self._consume = consume
        self._waiting: queue.Queue[Item | _End] = _Waiting(size, weighed)
        self._error: BaseException | None = None
        self._dropping = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)

    def put(self, item: Item) -> None:
        """Hand ``item`` over, as soon as there is room.

        Raises:
            RuntimeError: this process was forked after the block began, and so has no such thread.
        """
        _require_process(self._process)
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if os.getpid() != self._process:
            return  # what waits is the parent's to consume
        self._dropping = kind is not None
        self._waiting.put(_End())
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        while not isinstance(item := self._waiting.get(), _End):
            if self._dropping or self._error is not None:
                continue
            try:
                self._consume(item)
            except BaseException as error:  # noqa: BLE001 - raised again on the other side
                self._error = error
