"""Servers on loopback, over a model that finds what is green and needs no file."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn

from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from detseg.server.app import make_app
from detseg.server.protocol import server_config
from detseg.server.settings import ServerSettings
from detseg.structures import Detections
from tests.runtime.conftest import save_onnx as save_onnx

NAMES = ("left", "right")


class GreenRunner:
    """Two boxes about what is green, of scores 0.9 and 0.4; as many batches as were seen are in ``batch_sizes``. While
    ``gate`` is closed, nothing gets through."""

    spec = InputSpec(64, 64, pad_value=0)
    default_batch_size = 1
    max_in_flight = 2
    kind = load_kind("boxes")

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_on_red = False

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        self.batch_sizes.append(len(images))
        assert self.gate.wait(30)
        if self.fail_on_red and any(image[..., 0].max() > 200 for image in images):
            raise RuntimeError("red makes me fail")
        return Finished([self._find(image) for image in images])

    def _find(self, image: np.ndarray) -> Detections:
        rows, columns = np.nonzero(image[..., 1] > 127)
        if not len(rows):
            return Detections.empty()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        scores, labels = np.array([0.9, 0.4], np.float32), np.array([0, 1])
        return Detections(np.array([box, box], np.float32), scores, labels)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Talks to a server on loopback, with a connection of its own for each request."""

    def __init__(self, port: int, runner: GreenRunner) -> None:
        self.port = port
        self.runner = runner

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


def form_of(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form with ``files``, and the header that belongs to it."""
    parts = b"".join(
        f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files
    )
    return parts + b"--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}


def some_image(height: int = 48, width: int = 64, suffix: str = ".png", red: int = 0) -> bytes:
    """Green from row 8 to 24 and from column 16 to 32."""
    bgr = np.zeros((height, width, 3), np.uint8)
    bgr[8:24, 16:32, 1] = 255
    bgr[..., 2] = red
    encoded, data = cv2.imencode(suffix, bgr)
    assert encoded
    return data.tobytes()


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Serve:
    """``with serve(...) as client``: a server with these settings, and what talks to it."""

    @contextmanager
    def run(model: Model | None = None, **settings: Any) -> Iterator[Client]:
        runner = GreenRunner()
        model = model or Model(runner, "detection", NAMES, (1, 2), confidence=0.25)
        chosen = ServerSettings(port=0, **settings)
        config = server_config(make_app(model, chosen), chosen)
        config.port = 0
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Client(server.servers[0].sockets[0].getsockname()[1], runner)
        finally:
            runner.gate.set()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    return run
