"""Being told to stop by a signal, so that what was done so far is kept."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns the first SIGINT (Ctrl-C) or SIGTERM into ``requested``; a second one ends the process at once.

    A context manager: the handlers that were there before come back at its end. Only the main thread of a program may
    have handlers, so elsewhere nothing changes; a signal that the program was started to ignore stays ignored.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def name(self) -> str:
        """Of the signal that came."""
        return signal.Signals(self.number or 0).name

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal has ended."""
        return 128 + (self.number or 0)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for one in _SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    self._previous[one] = signal.signal(one, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, handler in self._previous.items():
            signal.signal(one, handler)

    def request(self) -> None:
        """Stop as at Ctrl-C, but never at once."""
        self.number = self.number or signal.SIGINT
        self.requested.set()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.requested.set()
        for one in self._previous:
            signal.signal(one, signal.SIG_DFL)
