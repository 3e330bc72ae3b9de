from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detseg.runtime.media.decode_budget import MAX_PIXELS_AT_A_TIME as MAX_PIXELS
from detseg.runtime.media.decode_budget import MAX_PIXELS_WAITING, WaitingRoom, decoding


def test_threads_together_decode_no_more_than_one_largest_image() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def decode(num_pixels: int) -> None:
        nonlocal now, most
        with decoding(num_pixels):
            with lock:
                now += num_pixels
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= num_pixels

    sizes = [MAX_PIXELS, 1, MAX_PIXELS // 2, MAX_PIXELS // 3, MAX_PIXELS // 3 * 2, 100] * 8
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, sizes))
    assert now == 0
    assert MAX_PIXELS <= most <= MAX_PIXELS + 1


def test_small_images_are_decoded_side_by_side() -> None:
    both = threading.Barrier(2, timeout=30)

    def decode(_: int) -> None:
        with decoding(MAX_PIXELS // 2):
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode, range(2)))


def test_an_image_beyond_the_limit_is_decoded_alone_and_errors_make_room() -> None:
    for _ in range(3):
        with pytest.raises(KeyError), decoding(2 * MAX_PIXELS):
            raise KeyError
    with decoding(MAX_PIXELS):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_begins_with_none_under_way() -> None:
    with decoding(MAX_PIXELS):
        child = os.fork()
        if child == 0:
            with decoding(MAX_PIXELS):
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_images_wait_for_their_turn_only_where_too_many_lie_ready() -> None:
    room, entered = WaitingRoom(), []
    half = MAX_PIXELS_WAITING // 2

    def enter(number: int, num_pixels: int) -> threading.Thread:
        def run() -> None:
            room.enter(number, num_pixels)
            entered.append(number)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.05 if number > 1 else 10)
        return thread

    enter(0, half), enter(1, half)
    third, fourth = enter(2, 1), enter(3, 10 * MAX_PIXELS_WAITING)
    assert entered == [0, 1]
    room.leave(0)
    third.join(10)
    assert entered == [0, 1, 2]
    room.leave(1)
    room.leave(2)
    fourth.join(0.05)
    assert entered == [0, 1, 2], "it is too large to be ahead at all"
    room.ask(3)
    fourth.join(10)
    fifth, sixth = enter(4, 0), enter(5, 5)
    assert entered == [0, 1, 2, 3]
    room.ask(float("inf"))
    fifth.join(10)
    sixth.join(10)
    assert sorted(entered) == [0, 1, 2, 3, 4, 5]
