"""Cameras and other sources that do not wait: the newest frame, and a count of those that were overtaken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.commands.predict import predict_command
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.live import take_ahead
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished, predict_frames
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.structures import Detections

CAMERA = StreamInfo(30.0, 32, 32, live=True)
FILM = StreamInfo(30.0, 32, 32, num_expected=5)
IMAGE = np.zeros((32, 32, 3), np.uint8)


class Runner:
    """Works on two batches at a time and would take 16 images at once, as that for GPUs."""

    spec = InputSpec(32, 32)
    kind = load_kind("boxes")
    max_in_flight = 2
    default_batch_size = 16

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.batch_sizes: list[int] = []
        self.before = before

    def submit(self, images: Any, kept: Any = None) -> Finished:
        self.before()
        self.batch_sizes.append(len(images))
        return Finished([Detections.empty() for _ in images])


def frames_of(stream: StreamInfo, numbers: Any, source: str = "camera0") -> Iterator[Frame]:
    for number in numbers:
        yield Frame(IMAGE, source, None, number, number / 30, stream)


def test_a_frame_of_a_camera_is_used_before_the_next_is_taken() -> None:
    taken: list[int] = []

    def camera() -> Iterator[Frame]:
        for frame in frames_of(CAMERA, range(100)):
            taken.append(1)
            yield frame

    runner = Runner()
    found = predict_frames(runner, camera(), runner.default_batch_size)
    for number in range(1, 4):
        next(found)
        assert len(taken) == number
    assert runner.batch_sizes == [1, 1, 1]


def test_what_is_not_live_still_makes_batches() -> None:
    runner = Runner()
    mixed = [
        *frames_of(FILM, range(5), "footage.mp4"),
        *frames_of(CAMERA, range(2)),
        *frames_of(FILM, range(3), "b.mp4"),
    ]
    found = [frame for frame, _ in predict_frames(runner, mixed, 16)]
    assert found == mixed
    assert runner.batch_sizes == [5, 1, 1, 3]


@pytest.mark.parametrize("size", [0, 1, 20])
def test_only_the_newest_frame_waits(size: int) -> None:
    """Ten frames come while the first is in use; those before and behind the camera all stay."""
    may_go, came = threading.Event(), threading.Event()

    def sources() -> Iterator[Frame]:
        yield from frames_of(FILM, range(3), "footage.mp4")
        yield from frames_of(CAMERA, range(1))
        assert may_go.wait(60)
        yield from frames_of(CAMERA, range(1, 11))
        came.set()
        yield from frames_of(StreamInfo(30.0, 32, 32, live=True), range(1), "camera1")
        yield from frames_of(FILM, range(2), "b.mp4")

    found = take_ahead(sources(), size)
    first = [next(found) for _ in range(4)]
    assert [(frame.source, frame.index) for frame in first] == [*(("footage.mp4", n) for n in range(3)), ("camera0", 0)]
    may_go.set()
    assert came.wait(60)
    rest = [(frame.source, frame.index, frame.num_overtaken) for frame in found]
    assert rest == [("camera0", 10, 9), ("camera1", 0, 0), ("b.mp4", 0, 0), ("b.mp4", 1, 0)]


NUM_SENT = 40


@pytest.fixture
def stream() -> Iterator[str]:
    """The address of a camera on this machine: 40 images, each sent when it is taken, 100 a second."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            for number in range(NUM_SENT):
                data = cv2.imencode(".jpg", np.full((32, 48, 3), 5 * number, np.uint8))[1].tobytes()
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.01)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("ahead", [0, 20])
def test_an_address_without_an_end_is_live(stream: str, ahead: int) -> None:
    runner = Runner(before=lambda: time.sleep(0.1))
    model = Model(runner, "detection", ("left",), (1,))
    frames = [found.frame for found in model.predict(stream, 16, allow_url=True, ahead=ahead)]
    assert all(frame.is_live for frame in frames)
    num_overtaken = sum(frame.num_overtaken for frame in frames)
    assert len(frames) + num_overtaken == NUM_SENT, "each frame is used or counted"
    assert num_overtaken > 0
    assert frames[-1].index == NUM_SENT - 1
    assert set(runner.batch_sizes) == {1}


def test_the_summary_counts_what_was_overtaken(stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner(before=lambda: time.sleep(0.1))
    model = Model(runner, "detection", ("left",), (1,))
    assert predict_command(model, [stream], output=tmp_path, save=["csv"], allow_url=True) == 0
    num_used = len(runner.batch_sizes)
    assert (
        f"{stream}: {num_used} frames (live: {NUM_SENT - num_used} more came while the model was at work, and were "
        "overtaken), complete"
    ) in capsys.readouterr().out
