"""How much all requests together may hold: bytes of bodies, and pixels of images."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """At most ``total`` of something at a time; of one event loop. Those who wait get their share in their order, so
    that small shares do not overtake a large one for ever."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, amount: int) -> bool:
        """Take ``amount``, unless that is more than there is."""
        if self.taken + amount > self.total:
            return False
        self.taken += amount
        return True

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        self.taken -= amount
        self._serve()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Hold ``amount``, no more than ``total``, within the block, which begins when there is as much."""
        assert amount <= self.total
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._serve()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.give(amount)
            else:
                self._waiting.remove((amount, turn))
                self._serve()

    def _serve(self) -> None:
        while self._waiting and self.take(self._waiting[0][0]):
            self._waiting.popleft()[1].set_result(None)
