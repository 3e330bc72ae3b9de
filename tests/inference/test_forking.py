"""A fork comes when no other thread is at work; what it would copy of one may be a lock that nobody releases."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from detseg.inference import forking

DEADLINE_S = 120


def comes(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE_S
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of threads that are no longer Python's")
def test_a_fork_waits_for_threads_at_work_but_not_for_ever(in_forked_child: Any) -> None:
    assert comes(lambda: not forking._is_another_thread_at_work())
    done = threading.Event()
    data = bytes(10_000_000)

    def work() -> None:
        while not done.is_set():
            hashlib.sha256(data)  # without the GIL

    thread = threading.Thread(target=work)
    thread.start()
    assert comes(forking._is_another_thread_at_work)
    assert in_forked_child(lambda: "forked all the same") == "'forked all the same'"
    done.set()
    thread.join()
    assert comes(lambda: not forking._is_another_thread_at_work())
