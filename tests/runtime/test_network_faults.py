"""A network that fails on some images costs these and nothing else; one that fails on all of them ends the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detseg
from detseg.arrays import BoolArray, ByteArray
from detseg.runtime.commands.predict import predict_command
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import ImageError, write_image
from detseg.runtime.model import Model
from detseg.runtime.network_faults import MAX_AT_FIRST, MAX_IN_A_ROW, NetworkError
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.runner import Finished
from detseg.runtime.sources.finding import Source
from detseg.structures import Detections

GRAPH = """g (float[batch, 3, h, w] images) => (float[b, c, y, x] logits) {
    brightest = ReduceMax <keepdims = 0> (images)
    is_bright = Greater (brightest, bound)
    place = Cast <to = 7> (is_bright)
    factor = Gather (one, place)
    conv = Conv <kernel_shape = [1, 1]> (images, weights)
    logits = Mul (conv, factor)
}"""
"""Fails where a batch has a pixel of more than 200: there is no second factor."""
METADATA = {
    "format": 1, "version": "0.1", "task": "semantic", "form": "logits", "class_names": ["a", "b"],
    "category_ids": [0, 1], "input": {"height": 32, "width": 32}, "stride": 8, "precision": "fp32", "postprocess": {},
}  # fmt: skip
DARK, BRIGHT = (np.full((32, 32, 3), value, np.uint8) for value in (90, 250))


@pytest.fixture
def model(save_onnx: Any) -> Path:
    weights = {
        "weights": np.ones((2, 3, 1, 1), np.float32),
        "bound": np.array(200 / 255, np.float32),
        "one": np.ones(1, np.float32),
    }
    path: Path = save_onnx(GRAPH, weights, METADATA)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def film(path: str, images: Sequence[ByteArray]) -> None:
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10, images[0].shape[1::-1])
    for image in images:
        video.write(image)
    video.release()


def errors(folder: str = "out") -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in Path(folder, "errors.jsonl").read_text().splitlines()]
    return [(line["source"], line["error"]) for line in lines]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_source_that_fails_is_named_and_the_others_are_whole(
    model: Path, batch_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, image in (("a", BRIGHT), ("b", DARK), ("c", BRIGHT), ("d", DARK), ("e", DARK)):
        write_image(f"in/{name}.png", image)
    film("in/f.mp4", [DARK] * 8 + [BRIGHT] * 8)
    film("in/g.mp4", [DARK] * 4)
    options: dict[str, Any] = {"output": Path("out"), "save": ["mask", "drawn"], "batch_size": batch_size}
    assert predict_command(detseg.load(model), ["in"], **options) == 1
    assert [name for name, _ in errors()] == ["in/a.png", "in/c.png", "in/f.mp4"]
    assert all(f"{name}: the network fails on it: " in error and "Gather" in error for name, error in errors())
    made = json.loads(Path("out/sources.json").read_text())
    numbers = {name: sorted(one for one in made if made[one] == name and "masks" in one) for name in set(made.values())}
    assert {name: len(masks) for name, masks in numbers.items()} == {
        "in/b.png": 1, "in/d.png": 1, "in/e.png": 1, "in/f.mp4": 8, "in/g.mp4": 4
    }  # fmt: skip
    said = capsys.readouterr()
    assert "4 of 7 sources, " in said.out
    assert "in/f.mp4: 8 frames, not complete\nin/g.mp4: 4 frames, complete\n" in said.out
    assert said.err.count("not predicted: in/") == 3


def test_a_network_that_fails_on_all_ends_the_run(model: Path) -> None:
    for number in range(2 * MAX_AT_FIRST):
        write_image(f"in/{number}.png", BRIGHT)
    loaded = detseg.load(model)
    with pytest.raises(NetworkError, match=f"in/{MAX_AT_FIRST - 1}.png: .*Gather.*; it has failed on all of 3 sources"):
        predict_command(loaded, ["in"], output=Path("out"))
    with pytest.raises(NetworkError, match=r"in/1.png: the network fails on it: .*Gather[^;]*$"):
        predict_command(loaded, ["in/1.png"], output=Path("out"))
    film("f.mp4", [BRIGHT] * 9)
    with pytest.raises(NetworkError, match=r"f.mp4: the network fails on it: "):
        predict_command(loaded, ["f.mp4"], output=Path("out"))


def test_in_python_it_is_raised_or_told(model: Path) -> None:
    loaded = detseg.load(model)
    with pytest.raises(OnnxFileError, match="failed on a batch of 1x3x32x32"):
        loaded([DARK, BRIGHT])
    told: list[tuple[Source, ImageError]] = []
    found = list(loaded.predict([BRIGHT, DARK, BRIGHT], on_error=lambda source, error: told.append((source, error))))
    assert [prediction.image is DARK for prediction in found] == [True]
    assert [str(error).split(": ")[0] for _, error in told] == ["an image"] * 2
    assert all(isinstance(error, NetworkError) for _, error in told)


class Runner:
    """Takes ``most`` images at a time, and fails on those of one pixel with ``error``."""

    spec = InputSpec(32, 32)
    kind = load_kind("boxes")
    max_in_flight = 2
    default_batch_size = 1

    def __init__(self, most: int = 4, error: Exception | None = None) -> None:
        self.most = most
        self.error = error or MemoryError("no more")
        self.batches: list[int] = []

    def submit(self, images: Sequence[ByteArray], kept: BoolArray | None = None) -> Finished:
        self.batches.append(len(images))
        if len(images) > self.most or any(image.size == 3 for image in images):
            raise self.error
        nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return Finished([nothing] * len(images))


def run(runner: Runner, images: Iterator[ByteArray] | Sequence[ByteArray], batch_size: int = 1) -> tuple[int, int]:
    """How many images have results, and how many were told of."""
    told: list[str] = []
    model = Model(runner, "detection", ("thing",), (1,))
    found = model.predict(images, batch_size, on_error=lambda source, error: told.append(str(error)))
    return len(list(found)), len(told)


POINT = np.zeros((1, 1, 3), np.uint8)


def test_where_single_images_work_batches_are_given_up() -> None:
    runner = Runner(most=1)
    with pytest.warns(UserWarning, match="one at a time from here on: 3 together failed .no more."):
        assert run(runner, [DARK] * 9, 3) == (9, 0)
    # The second batch was on its way already.
    assert runner.batches == [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_many_faults_in_a_row_end_the_run() -> None:
    images = [DARK] + [POINT] * (MAX_IN_A_ROW - 1) + [DARK] + [POINT] * (MAX_IN_A_ROW - 1)
    assert run(Runner(), images, 2) == (2, 2 * (MAX_IN_A_ROW - 1))
    with pytest.raises(NetworkError, match=f"no more; it has failed on the last {MAX_IN_A_ROW} sources"):
        run(Runner(), [*images, POINT])


def test_a_device_that_failed_is_not_the_fault_of_an_image() -> None:
    class AcceleratorError(RuntimeError):
        """As torch calls it."""

    with pytest.raises(AcceleratorError):
        run(Runner(error=AcceleratorError("CUDA error")), [DARK, POINT, DARK])
