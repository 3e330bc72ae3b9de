"""How much memory and time a network in ONNX Runtime may take: a file of some kilobytes can ask for any amount.

Memory: all networks of this process together get three quarters of what it may use. ONNX Runtime gives every array of a
network out of an arena, and the arena has this size. Only what it computes while a file is loaded lies outside, which
is why constants are not folded then; the exporter has done that already.

Time: a graph without graphs inside nodes runs each node once, and a run that takes longer than ``MAX_SECONDS`` is
stopped at the next node.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detseg.memory import usable_memory

MAX_SECONDS = 600.0
"""How long one batch may be in the network."""
MEMORY_SHARE = 0.75
"""The share of this process's memory that all networks in ONNX Runtime may take together."""
UNFOLDED = ("ConstantFolding",)
"""What ONNX Runtime must not do while it loads a file: its arrays would lie outside of the arena."""

SILENT = 4
"""ONNX Runtime's level of what it writes on standard error by itself: its errors are raised, which is enough."""

_SECONDS_BETWEEN_LOOKS = 0.5

_arena_lock = threading.Lock()
_has_arena = False


def limit_memory(onnxruntime: Any, options: Any) -> None:
    """Let the session that is made with ``options`` take its memory from the arena, which the first call makes."""
    global _has_arena
    with _arena_lock:
        if not _has_arena:
            place = onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            )
            limit = int(MEMORY_SHARE * usable_memory())
            onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": limit}))
            _has_arena = True
    options.add_session_config_entry("session.use_env_allocators", "1")


@contextmanager
def limited_time(onnxruntime: Any) -> Iterator[Any]:
    """Options for a run that is stopped, with an error of ONNX Runtime, when it takes longer than ``MAX_SECONDS``."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    _watch.begin(options)
    try:
        yield options
    finally:
        _watch.end(options)


class _Watch:
    """Stops runs that are overdue. One thread for all: one for each run would cost more than a small network."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: dict[int, tuple[Any, float]] = {}
        self._thread: threading.Thread | None = None

    def begin(self, options: Any) -> None:
        with self._changed:
            self._runs[id(options)] = options, time.monotonic() + MAX_SECONDS
            self._changed.notify()
            # A forked process has no thread any more.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, name="onnx-watch", daemon=True)
                self._thread.start()

    def end(self, options: Any) -> None:
        with self._changed:
            del self._runs[id(options)]

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._runs)
                now = time.monotonic()
                for options, deadline in self._runs.values():
                    if now > deadline:
                        options.terminate = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _make_watch() -> None:
    """A watch of its own for this process: a lock that another thread held when it was forked would stay closed."""
    global _watch
    _watch = _Watch()


_watch = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_watch)
