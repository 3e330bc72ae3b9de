"""torch in a process that was forked after torch had worked in its parent.

GNU OpenMP keeps the threads of a parallel loop with the thread that started it. The thread that forks takes this memory
along into the child, but none of those threads, and would wait for them for ever. Any other thread begins anew.

MKL gives back the buffers of a thread at its end, which comes a moment after ``Thread.join`` has returned, under a lock
that a child would find taken for ever. So a fork first waits until no thread is at work.

A GPU cannot be used at all there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

_TASKS = Path("/proc/self/task")  # of Linux
_SECONDS_TO_QUIET = 0.5
"""For how long a fork waits at most, as where another thread computes without end."""

_beside: ThreadPoolExecutor | None = None


def _await_quiet() -> None:
    deadline = time.monotonic() + _SECONDS_TO_QUIET
    while _is_another_thread_at_work() and time.monotonic() < deadline:
        time.sleep(0.001)


def _is_another_thread_at_work() -> bool:
    """Whether a thread of this process, of whatever library, runs or would if it had a core."""
    if not _TASKS.is_dir():
        return False
    own = str(threading.get_native_id())
    for task in _TASKS.iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if task.name != own and state in "RD":
            return True
    return False


def _in_child() -> None:
    global _beside
    _beside = ThreadPoolExecutor(1, thread_name_prefix="torch-after-fork")


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(before=_await_quiet, after_in_child=_in_child)


def run_with_torch(work: Callable[[], T]) -> T:
    """What ``work`` gives; in a forked child in another thread than the one that forked, where torch has several."""
    if _beside is None or threading.current_thread() is not threading.main_thread() or torch.get_num_threads() == 1:
        return work()
    return _beside.submit(work).result()


def require_process(process: int) -> None:
    """Refuse to use a GPU in another process than that which began with it.

    Raises:
        RuntimeError: this is not ``process`` but a child that was forked from it.
    """
    if os.getpid() != process:
        raise RuntimeError(
            "a model on a GPU cannot be used in a process that was forked after it was loaded: load it after the fork, "
            "or start processes with the method spawn or forkserver"
        )
