from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from detseg.runtime.background import Sink, Weighed, iterate_ahead


def numbers(seen: list[int], count: int = 100, error_at: int | None = None) -> Iterator[int]:
    try:
        for number in range(count):
            if number == error_at:
                raise OSError("it broke")
            seen.append(number)
            yield number
    finally:
        seen.append(-1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_order_and_bound() -> None:
    seen: list[int] = []
    items = iterate_ahead(numbers(seen), 3)
    assert next(items) == 0
    wait_for(lambda: len(seen) == 5)  # one given, three waiting, one in the hand of the thread
    time.sleep(0.05)
    assert len(seen) == 5
    assert list(items) == list(range(1, 100))
    assert seen[-1] == -1


def test_of_heavy_items_fewer_wait() -> None:
    """Of 3, 3, 3, ... below 7 two may wait, and a third is let in; what is heavier than that waits alone."""
    for weight, num_waiting in ((3, 3), (6, 2), (7, 1), (1000, 1), (0, 20)):
        seen: list[int] = []
        items = iterate_ahead(numbers(seen), 20, weighed=Weighed(lambda number, weight=weight: weight, 7))  # type: ignore[misc]
        assert next(items) == 0
        # One is given, and one in the hand of the thread.
        wait_for(lambda seen=seen, count=num_waiting + 2: len(seen) == count)  # type: ignore[misc]
        time.sleep(0.02)
        assert len(seen) == num_waiting + 2
        assert list(items) == list(range(1, 100))


def test_a_sink_lets_few_heavy_items_wait() -> None:
    taken: list[int] = []
    begun, proceed = threading.Event(), threading.Event()

    def take(number: int) -> None:
        begun.set()
        assert proceed.wait(60)
        taken.append(number)

    with Sink(take, 9, Weighed(lambda number: 5, 7)) as sink:
        sink.put(0)
        assert begun.wait(60)
        sink.put(1)
        sink.put(2)
        late = threading.Thread(target=sink.put, args=(3,))
        late.start()
        late.join(0.05)
        assert late.is_alive(), "two of five are more than seven"
        proceed.set()
        late.join(60)
    assert taken == [0, 1, 2, 3]


def test_the_thread_is_another_one() -> None:
    def names() -> Iterator[str]:
        yield threading.current_thread().name

    assert list(iterate_ahead(names(), 1)) == ["iterate-ahead"]


def test_an_error_comes_where_it_would_have_come() -> None:
    seen: list[int] = []
    items = iterate_ahead(numbers(seen, error_at=2), 10)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="it broke"):
        next(items)


def test_closing_early_ends_the_thread_and_closes_the_source() -> None:
    before = threading.active_count()
    seen: list[int] = []
    items = iterate_ahead(numbers(seen), 2)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert seen[-1] == -1
    assert len(seen) < 10


def test_a_sink_takes_all_in_order() -> None:
    taken: list[int] = []
    with Sink(taken.append, 2) as sink:
        for number in range(50):
            sink.put(number)
    assert taken == list(range(50))


def test_the_error_of_a_sink_is_raised_once_and_ends_it() -> None:
    taken: list[int] = []

    def take(number: int) -> None:
        if number == 3:
            raise OSError("disk full")
        taken.append(number)

    def put_all() -> None:
        with Sink(take, 2) as sink:
            for number in range(50):
                sink.put(number)

    with pytest.raises(OSError, match="disk full"):
        put_all()
    assert taken == [0, 1, 2]

    def put_last() -> None:
        with Sink(take, 9) as sink:
            sink.put(3)

    with pytest.raises(OSError, match="disk full"):
        put_last()


def test_where_the_block_fails_what_waits_is_dropped_and_the_first_error_stays() -> None:
    taken: list[int] = []
    started, proceed = threading.Event(), threading.Event()

    def take(number: int) -> None:
        started.set()
        assert proceed.wait(10)
        taken.append(number)

    def fail() -> None:
        with Sink(take, 9) as sink:
            for number in range(5):
                sink.put(number)
            assert started.wait(10)
            threading.Timer(0.05, proceed.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert taken == [0]


def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent(in_forked_child: Any) -> None:
    items = iterate_ahead(numbers([]), 2)
    assert next(items) == 0
    assert "was begun before the process was forked" in in_forked_child(lambda: next(items))
    assert in_forked_child(lambda: list(iterate_ahead(range(3), 2))) == "[0, 1, 2]"
    assert list(items) == list(range(1, 100)), "the parent goes on"
    taken: list[int] = []
    with Sink(taken.append, 2) as sink:
        sink.put(1)
        assert "was begun before the process was forked" in in_forked_child(lambda: sink.put(5))
        assert in_forked_child(lambda: sink.__exit__(None)) == "None"
        sink.put(2)
    assert taken == [1, 2]


def test_who_is_told_to_stop_does_not_wait_for_what_may_never_come() -> None:
    stop, asked, release = threading.Event(), threading.Event(), threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        asked.set()
        release.wait(60)

    items = iterate_ahead(camera(), 2, stop=stop)
    assert next(items) == 0
    assert asked.wait(10)
    begin = time.monotonic()
    threading.Timer(0.1, stop.set).start()
    assert list(items) == []
    release.set()
    assert time.monotonic() - begin < 30


def test_what_was_read_ahead_is_not_given_after_the_stop() -> None:
    stop, seen = threading.Event(), []
    items = iterate_ahead(numbers(seen), 5, stop=stop)
    assert next(items) == 0
    stop.set()
    assert list(items) == []
    assert seen[-1] == -1
