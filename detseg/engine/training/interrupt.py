"""Being told to stop: the run ends at the next step boundary with its state saved."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class InterruptedRunError(Exception):
    """The run was told to stop and has saved its state."""


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a flag; a second one ends the process at once.

    A context manager: the handlers that were there before come back at its end.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
