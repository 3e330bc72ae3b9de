"""``predict`` ended at random moments: each file is whole or absent, and a repeat has all of them."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import read_image, write_image
from detseg.runtime.sources.video_reader import read_video

NUM_KILLS = 6
NUM_IMAGES, NUM_FRAMES = 6, 12

RUN = """
import sys, time
from collections.abc import Sequence
from pathlib import Path
import numpy as np
from detseg.runtime.commands.predict import predict_command
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from detseg.structures import Detections

class SlowRunner:
    spec, default_batch_size, max_in_flight, kind = InputSpec(64, 64), 1, 1, load_kind("boxes")

    def submit(self, images, kept=None):
        time.sleep(0.02)
        return Finished([Detections(np.array([[1, 2, 9, 8]], np.float32), np.ones(1, np.float32), np.array([0]))])

print("started", flush=True)
save = ["drawn", "coco", "csv", "jsonl", "yolo"]
sys.exit(predict_command(Model(SlowRunner(), "detection", ("thing",), (1,)), ["in"], output=Path("out"), save=save))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images and two videos in ``in``; also the current folder."""
    monkeypatch.chdir(tmp_path)
    gray = np.full((48, 64, 3), 90, np.uint8)
    for number in range(NUM_IMAGES):
        write_image(tmp_path / "in" / f"{number}.png", gray)
    for name in ("in/f.mp4", "in/g.mp4"):
        video = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for _ in range(NUM_FRAMES):
            video.write(gray)
        video.release()
    return tmp_path


def start() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def check_whole(path: Path, shortest_video: int) -> None:
    """Every file of its kind can be read to its end."""
    match path.suffix:
        case ".png":
            read_image(path)
        case ".mp4":
            assert shortest_video <= len(list(read_video(path))) <= NUM_FRAMES
        case ".json":
            json.loads(path.read_text())
        case ".jsonl":
            assert path.read_text().endswith("\n") or not path.read_text()
            for line in path.read_text().splitlines():
                json.loads(line)
        case ".csv":
            with path.open(newline="") as stream:
                assert {len(row) for row in csv.reader(stream)} == {10}
        case ".txt":
            assert path.read_text().endswith("\n")
        case _:
            raise AssertionError(f"what is {path}?")


def is_partial(path: Path) -> bool:
    return path.name.startswith(".partial-")


def check_complete(folder: Path) -> None:
    images = json.loads((folder / "detections_images.json").read_text())
    assert len(images) == NUM_IMAGES + 2 * NUM_FRAMES
    assert len(json.loads((folder / "detections.json").read_text())) == len(images)
    sources = json.loads((folder / "sources.json").read_text())
    assert len(sources) == NUM_IMAGES + 2 + len(images), "drawn images and videos, and a text file for each image"
    tables = {"sources.json", "detections.json", "detections_images.json", "detections.csv", "results.jsonl"}
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert files.keys() == sources.keys() | tables
    for path in files.values():
        check_whole(path, NUM_FRAMES)


@pytest.mark.slow
def test_random_kills_leave_whole_files_and_a_repeat_has_them_all(folder: Path) -> None:
    process = start()
    begin = time.perf_counter()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    check_complete(folder / "out")
    took_s = time.perf_counter() - begin
    chance = random.Random(0)
    for number in range(NUM_KILLS):
        subprocess.run(["rm", "-r", *map(str, folder.glob("out*"))], check=True)
        how = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        process = start()
        time.sleep(chance.uniform(0, took_s))
        process.send_signal(how)
        output, _ = process.communicate(timeout=60)
        left = [path for path in folder.glob("out/**/*") if path.is_file()]
        if how == signal.SIGTERM:
            assert process.returncode in (0, -how, 128 + how), output
            if process.returncode == -how and left:  # after the verb had ended; else before it had begun
                check_complete(folder / "out")
            assert not [path for path in left if is_partial(path) or ".unfinished" in path.name], output
        for path in left:
            if not is_partial(path):
                check_whole(path, 1 if how == signal.SIGTERM else NUM_FRAMES)
        before = {path: path.read_bytes() for path in left}
        process = start()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        check_complete(folder / ("out-2" if left else "out"))
        assert {path: path.read_bytes() for path in left} == before
