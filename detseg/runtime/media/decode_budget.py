"""How many pixels all threads of this process may decode at a time, so that their memory together has a limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS_AT_A_TIME = 178_000_000
"""The largest image that is decoded at all, alone, or any number of small ones; so many take half a gigabyte."""


class _Budget:
    """What is under way now, and what waits for it."""

    def __init__(self) -> None:
        self.num_pixels = 0
        self.changed = threading.Condition()


@contextmanager
def decoding(num_pixels: int) -> Iterator[None]:
    """Decode an image of so many pixels within the block, which begins when there is room for it: no more than
    ``MAX_PIXELS_AT_A_TIME`` are decoded at a time."""
    budget, share = _budget, min(num_pixels, MAX_PIXELS_AT_A_TIME)
    with budget.changed:
        budget.changed.wait_for(lambda: budget.num_pixels + share <= MAX_PIXELS_AT_A_TIME)
        budget.num_pixels += share
    try:
        yield
    finally:
        with budget.changed:
            budget.num_pixels -= share
            budget.changed.notify_all()


def _make_budget() -> None:
    """One of its own for this process: what other threads were about when it was forked never ends here."""
    global _budget
    _budget = _Budget()


_budget = _Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_budget)
