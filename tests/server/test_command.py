"""``detseg serve`` as a process: what it answers, how it ends, and what it refuses."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import detseg
from detseg.cli import main
from tests.runtime.conftest import SaveOnnx
from tests.server.conftest import Answer, Client, GreenRunner, some_image

FILE = Path(__file__).parents[2] / "weights" / "detseg_n_shapes.safetensors"
GRAPH = """
agraph (float[N, 3, 32, 32] images) => (float[N, 3, 32, 32] logits) { logits = Identity(images) }
"""
MASKS = {
    "format": 1,
    "version": "0.1.0",
    "task": "semantic",
    "form": "logits",
    "class_names": ["r", "g", "b"],
    "category_ids": [1, 2, 3],
    "input": {"height": 32, "width": 32},
    "postprocess": {},
}
SLOW = """
import sys, time
from tests.server.conftest import GreenRunner
from detseg.runtime.model import Model
from detseg.server.command import serve_command
from detseg.server.settings import ServerSettings

class SlowRunner(GreenRunner):
    def submit(self, images, kept=None):
        time.sleep(0.3)
        return super().submit(images, kept)

model = Model(SlowRunner(), "detection", ("left", "right"), (1, 2), confidence=0.25)
sys.exit(serve_command(model, ServerSettings(port=0, batch_size=1)))
"""


class Process:
    """A server as a process of its own."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"detseg serves at http://127.0.0.1:(\d+)/\n", line)
        assert found is not None, (line, self.process.communicate())
        self.client = Client(int(found[1]), GreenRunner())


@pytest.fixture
def slow() -> Iterator[Process]:
    started = Process("-c", SLOW)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_that_has_come_is_answered(slow: Process, number: signal.Signals) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(slow.client.ask, "/predict", some_image(), {}) for _ in range(4)]
        while b"detseg_requests_under_way 4" not in slow.client.ask("/metrics").body:
            time.sleep(0.01)
        slow.process.send_signal(number)
        assert [one.result().status for one in answers] == [200] * 4
    output, errors = slow.process.communicate(timeout=30)
    assert (slow.process.returncode, output, errors) == (
        0, "stopped; all requests that had come were answered\n", "",
    )  # fmt: skip
    with pytest.raises(ConnectionError):
        slow.client.ask("/health")


def test_masks_without_torch(save_onnx: SaveOnnx) -> None:
    """A model of masks has no confidence, and what draws it is the server."""
    path = save_onnx(GRAPH, metadata=MASKS)
    words = ["serve", str(path), "--port", "0"]
    started = Process(
        "-c", f"import sys; sys.modules['torch'] = None; from detseg.cli import main; sys.exit(main({words}))"
    )
    try:
        answer = started.client.ask("/predict", some_image(), {})
        (image,) = answer.json["images"]
        (expected,) = detseg.load(path)(some_image())
        assert image["classes"]["g"]["pixels"] == int((expected.labels == 1).sum()) > 0
        assert started.client.ask("/predict?confidence=0.5", some_image(), {}).json == {
            "detail": "only boxes have a confidence, this model is for semantic"
        }
        assert started.client.ask("/model").json["lowest_confidence"] is None
        drawn: Answer = started.client.ask("/draw", some_image(), {})
        assert cv2.imdecode(np.frombuffer(drawn.body, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)
    finally:
        started.process.send_signal(signal.SIGTERM)
        _, errors = started.process.communicate(timeout=30)
    assert (started.process.returncode, errors) == (0, "")


def test_what_a_model_file_gives_is_what_predict_gives(tmp_path: Path) -> None:
    """At every threshold, over HTTP and at once."""
    shapes = cv2.imread(str(FILE.parent / "images" / "detseg_n_shapes_val.jpg"))
    encoded, data = cv2.imencode(".png", shapes)
    assert encoded
    started = Process("-m", "detseg", "serve", str(FILE), "--port", "0", "--device", "cpu", "--conf", "0.05")
    try:
        counts = []
        for confidence in (0.05, 0.1, 0.3):
            (found,) = started.client.ask(f"/predict?confidence={confidence}", data.tobytes(), {}).json["images"]
            model = detseg.load(FILE, device="cpu", confidence=confidence)
            (expected,) = model(data.tobytes())
            assert found["detections"] == model.runner.kind.record(expected.result, model.class_names)["detections"]
            counts.append(len(found["detections"]))
        assert len(set(counts)) == 3, counts
    finally:
        started.process.send_signal(signal.SIGTERM)
        started.process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "at 0.0.0.0 other machines reach the server, so it needs a token"),
        (["--port", "70000"], "port must lie between 0 and 65535, got 70000"),
        (["--token-file", "none.txt"], "No such file"),
        (["--token-file", "bytes"], "bytes: is no text, so it holds no token"),
        (["--batch-wait", "nan"], "the wait for a batch must be a number that is not negative, got nan s"),
        (["--batch-wait", "inf"], "the wait for a batch must be a number that is not negative, got inf s"),
        (["--host", "192.0.2.1", "--token-file", "token"], "cannot listen at 192.0.2.1 port 8080"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert main(["serve", str(FILE), *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    environment = {**os.environ, "DETSEG_TOKEN": "another"}
    code = "from detseg.server.command import read_token; from pathlib import Path; print(read_token({}))"
    for argument, expected in ((f"Path({str(tmp_path / 'token')!r})", "secret"), ("None", "another")):
        command = [sys.executable, "-c", code.format(argument)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == f"{expected}\n"


def test_volumes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(FILE.parent / "vnet_hippocampus.safetensors"), "--device", "cpu"]) == 2
    assert "only models of images can be served, this one is for volume" in capsys.readouterr().err
