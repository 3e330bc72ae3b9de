"""How long a training step waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class Awaited(Iterator[T]):
    """``items``, with the ``seconds`` spent waiting for them so far.

    A training step fetches the loss of the step before from the device, so that a GPU has no more than the rest of one
    step to do in this time.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self.seconds = 0.0

    def __next__(self) -> T:
        started = time.monotonic()
        try:
            return next(self._items)
        finally:
            self.seconds += time.monotonic() - started
