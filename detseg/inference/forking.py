"""torch in a process that was forked after torch had worked in its parent.

GNU OpenMP keeps the threads of a parallel loop with the thread that started it. The thread that forks takes this memory
along into the child, but none of those threads, and would wait for them for ever. Any other thread begins anew. A GPU
cannot be used at all there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_beside: ThreadPoolExecutor | None = None


def _in_child() -> None:
    global _beside
    _beside = ThreadPoolExecutor(1, thread_name_prefix="torch-after-fork")


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_in_child)


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
