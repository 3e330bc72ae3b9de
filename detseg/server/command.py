"""The verb ``serve``: a model behind HTTP, until it is told to stop."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn

from detseg.files import printable, read_text
from detseg.runtime.model import Model
from detseg.runtime.stop import StopSignals
from detseg.server.app import make_app
from detseg.server.protocol import server_config
from detseg.server.settings import ServerSettings

TOKEN = "DETSEG_TOKEN"


def serve_command(model: Model, settings: ServerSettings) -> int:
    """``detseg serve``: answer requests until SIGTERM or Ctrl-C. What is under way then is finished; a second signal
    breaks it off.

    Returns 0.

    Raises:
        ValueError: the model is not for images.
        OSError: the address cannot be listened at.
    """
    app = make_app(model, settings)
    listening = _listen(settings)
    server = _Server(server_config(app, settings), _address(settings, listening))
    # Uvicorn passes a signal on when all is done; it is for us to end then.
    with StopSignals():
        server.run(sockets=[listening])
    print("stopped; all requests that had come were answered", flush=True)
    return 0


def read_token(path: Path | None) -> str | None:
    """The token in the file ``path``, or else in the environment; None where there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no text.
    """
    if path is not None:
        try:
            return read_text(path).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{printable(path)}: is no text, so it holds no token") from error
    return os.environ.get(TOKEN)


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        print(f"detseg serves at {self._address}", flush=True)


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen at {settings.host} port {settings.port}: {error.strerror or error}") from error
    return listening


def _address(settings: ServerSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listening.getsockname()[1]}/"
