"""How many pixels all threads of this process may decode at a time, and how many may wait for their use, so that their
memory together has a limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS_AT_A_TIME = 178_000_000
"""The largest image that is decoded at all, alone, or any number of small ones; so many take half a gigabyte."""
MAX_PIXELS_WAITING = MAX_PIXELS_AT_A_TIME // 4
"""As many pixels of decoded images wait at one place, or one image that has more."""


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


class WaitingRoom:
    """Who may decode images ahead of their use, which are numbered in the order of that: who is asked for, or finds no
    more than ``MAX_PIXELS_WAITING`` with its own."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._asked_for: float = -1
        self._changed = threading.Condition()

    def enter(self, number: int, num_pixels: int) -> None:
        """Wait for the turn of an image of so many pixels, which from now on counts."""
        with self._changed:
            self._changed.wait_for(
                lambda: number <= self._asked_for or sum(self._held.values()) + num_pixels <= MAX_PIXELS_WAITING
            )
            self._held[number] = num_pixels

    def ask(self, number: float) -> None:
        """Somebody waits for the image of this number; with infinity for all of them."""
        with self._changed:
            self._asked_for = number
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """The image has been taken."""
        with self._changed:
            self._held.pop(number, None)
            self._changed.notify_all()


def _make_budget() -> None:
    """One of its own for this process: what other threads were about when it was forked never ends here."""
    global _budget
    _budget = _Budget()


_budget = _Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_budget)
