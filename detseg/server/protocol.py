"""Connections: those on which no request arrives are not kept."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detseg.server.settings import ServerSettings


def server_config(app: Any, settings: ServerSettings) -> uvicorn.Config:
    """How ``app`` is served."""

    class Protocol(_Protocol):
        head_s = settings.body_s

    # Whatever arrives that is no HTTP is answered with 400, and not worth a line in the log of the server.
    return uvicorn.Config(
        app, http=Protocol, ws="none", log_level="error", access_log=False, server_header=False, lifespan="on"
    )


class _Protocol(H11Protocol):
    """Uvicorn's, which would wait for ever for the rest of a request's head."""

    head_s: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A request must begin."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self.transport.close)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
