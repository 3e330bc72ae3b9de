"""Taking what a server sends without waiting for it longer than it is worth."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress

ANSWER_SECONDS = 60.0
"""How long a server may take until it begins with the file: look-up of its name, connection and headers in all."""
WINDOW_SECONDS = 30.0
LOWEST_RATE = 10_000
"""Bytes per second, of each ``WINDOW_SECONDS`` that are waited for: so a file of so many bytes has a latest end."""
_AHEAD = 8
_CHECK_SECONDS = 0.1


class TooSlowError(ValueError):
    """The server keeps the connection and does not send; the message names no address."""


class _End:
    """The last thing that the thread says: the error that ended it, if there was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def steadily(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """``pieces``, taken by a thread of its own, so that no call of the system can hold up the caller. The first is to
    come within ``ANSWER_SECONDS``; of the others, those that are waited for must come at ``LOWEST_RATE``.

    Raises:
        TooSlowError: they do not.
    """
    waiting: queue.Queue[bytes | _End] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    thread = threading.Thread(target=_take, args=(pieces, waiting, stopped), name="download", daemon=True)
    thread.start()
    try:
        yield from _paced(waiting)
    finally:
        stopped.set()


def _paced(waiting: queue.Queue[bytes | _End]) -> Iterator[bytes]:
    allowed, num_bytes, waited = ANSWER_SECONDS, 0, 0.0
    has_begun = False
    while True:
        before = time.monotonic()
        try:
            item = waiting.get(timeout=max(0.0, allowed - waited))
        except queue.Empty:
            if not has_begun:
                raise TooSlowError(f"no answer within {ANSWER_SECONDS:g} s") from None
            raise TooSlowError(_slow(num_bytes)) from None
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        # Only what is waited for counts: a slow disk is not the server's fault.
        waited, num_bytes = waited + time.monotonic() - before, num_bytes + len(item)
        if not has_begun or waited >= allowed:
            if has_begun and num_bytes < LOWEST_RATE * WINDOW_SECONDS:
                raise TooSlowError(_slow(num_bytes))
            has_begun, allowed, num_bytes, waited = True, WINDOW_SECONDS, 0, 0.0
        yield item


def _slow(num_bytes: int) -> str:
    return f"too slow: {num_bytes} bytes in {WINDOW_SECONDS:g} s, at least {LOWEST_RATE} a second are needed"


def _take(pieces: Iterator[bytes], waiting: queue.Queue[bytes | _End], stopped: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for piece in pieces:
            _put(piece, waiting, stopped)
            if stopped.is_set():
                break
    except BaseException as raised:  # noqa: BLE001 - raised again on the other side
        error = raised
    finally:
        if close := getattr(pieces, "close", None):
            close()
    _put(_End(error), waiting, stopped)


def _put(item: bytes | _End, waiting: queue.Queue[bytes | _End], stopped: threading.Event) -> None:
    while not stopped.is_set():
        with suppress(queue.Full):
            return waiting.put(item, timeout=_CHECK_SECONDS)
