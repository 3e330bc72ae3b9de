"""What the command line asks of its process: standard streams that are open, and an end in one line where a signal
comes before, between or behind what handles signals itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_STREAMS = ("stdin", "stdout", "stderr")


class _StopError(KeyboardInterrupt):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_until_stopped(action: Callable[[], int]) -> int:
    """The exit code of ``action``; 128 and the number of the signal where Ctrl-C or SIGTERM ends it, which it is told
    of as a KeyboardInterrupt, so that nothing is left half done. A second signal ends the process at once."""
    try:
        with _signals_raise():
            return action()
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, _StopError) else signal.SIGINT
        with suppress(OSError, ValueError):
            print(f"detseg: stopped by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number


def open_streams() -> None:
    """Open what is closed of standard input, output and error, to nothing: the next file that is opened would take its
    place, and get what is printed there."""
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            # Never closed: as the stream that is not there.
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


@contextmanager
def _signals_raise() -> Iterator[None]:
    """What would end the process, or raise KeyboardInterrupt, raises within the block, and the second time ends it."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in previous:
            signal.signal(one, signal.SIG_DFL)
        raise _StopError(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        previous = {one: handler for one, handler in usual.items() if signal.getsignal(one) == handler}
        for one in previous:
            signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
