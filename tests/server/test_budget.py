from __future__ import annotations

import asyncio

import pytest

from detseg.server.budget import Budget


def test_a_large_share_is_not_overtaken_for_ever() -> None:
    async def run() -> list[str]:
        budget, order = Budget(10), []
        gate = asyncio.Event()

        async def use(name: str, amount: int) -> None:
            async with budget.hold(amount):
                order.append(name)
                await gate.wait()

        tasks = [asyncio.create_task(use(name, amount)) for name, amount in (("a", 4), ("all", 10), ("b", 1))]
        await asyncio.sleep(0.01)
        assert order == ["a"]
        gate.set()
        await asyncio.gather(*tasks)
        assert budget.taken == 0
        return order

    assert asyncio.run(run()) == ["a", "all", "b"]


def test_who_gives_up_waiting_holds_nothing() -> None:
    async def run() -> None:
        budget = Budget(10)
        assert budget.take(9)
        assert not budget.take(2)

        async def use() -> None:
            async with budget.hold(5):
                pytest.fail("there is no room")

        waiting = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        budget.give(9)
        async with budget.hold(10):
            assert budget.taken == 10
        assert budget.taken == 0

    asyncio.run(run())
