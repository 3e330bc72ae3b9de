from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from detseg.runtime.inputs.geometry import FittedInputSpec, InputSpec
from detseg.server.batcher import Batcher
from detseg.structures import Detections


class Late:
    """A batch whose results come when the ``door`` opens; each image gives a box as wide as itself."""

    def __init__(self, images: Sequence[np.ndarray], door: threading.Event) -> None:
        self._images, self._door = images, door

    def results(self) -> list[Detections]:
        assert self._door.wait(20)
        boxes = [np.array([[0, 0, image.shape[1], 1]], np.float32) for image in self._images]
        return [Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64)) for box in boxes]


class LateRunner:
    kind: Any = None
    default_batch_size = 1

    def __init__(self, spec: InputSpec, max_in_flight: int) -> None:
        self.spec, self.max_in_flight = spec, max_in_flight
        self.door = threading.Event()
        self.sizes: list[list[int]] = []

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Late:
        self.sizes.append([image.shape[1] for image in images])
        return Late(images, self.door)


def image(width: int = 64, height: int = 64) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def width_of(found: Any) -> int:
    return int(found.boxes_xyxy[0, 2])


def test_no_more_batches_are_under_way_than_the_runner_takes() -> None:
    runner = LateRunner(InputSpec(64, 64), 2)
    batcher = Batcher(runner, batch_size=2, wait_s=0.0)
    first = batcher.submit(image(10))
    while len(runner.sizes) < 1:
        time.sleep(0.001)
    second = batcher.submit(image(11))
    while len(runner.sizes) < 2:
        time.sleep(0.001)
    others = [batcher.submit(image(12 + number)) for number in range(5)]
    time.sleep(0.1)
    assert (runner.sizes, batcher.num_waiting) == ([[10], [11]], 5)
    runner.door.set()
    assert [width_of(one.result(20)) for one in (first, second, *others)] == list(range(10, 17))
    assert runner.sizes[2:] == [[12, 13], [14, 15], [16]]
    batcher.close()


def test_inputs_of_one_size_make_a_batch_whatever_lies_between() -> None:
    runner = LateRunner(FittedInputSpec(64, 64, stride=32), 1)
    told: list[int] = []
    batcher = Batcher(runner, 3, 0.0, lambda size, seconds: told.append(size))
    shapes = [(64, 64), (64, 32), (64, 64), (64, 20), (64, 64), (64, 64)]
    blocker = batcher.submit(image())
    while not runner.sizes:
        time.sleep(0.001)
    found = [batcher.submit(image(width, height)) for height, width in shapes]
    runner.door.set()
    assert [width_of(one.result(20)) for one in found] == [width for _, width in shapes]
    assert width_of(blocker.result(20)) == 64
    batcher.close()
    assert runner.sizes == [[64], [64, 64, 64], [32, 20], [64]]
    assert told == [1, 3, 2, 1]


def test_a_batch_waits_for_others_only_so_long() -> None:
    runner = LateRunner(InputSpec(64, 64), 1)
    runner.door.set()
    batcher = Batcher(runner, 2, 0.2)
    begin = time.monotonic()
    batcher.submit(image()).result(20)
    alone_s = time.monotonic() - begin
    begin = time.monotonic()
    for one in [batcher.submit(image()) for _ in range(2)]:
        one.result(20)
    full_s = time.monotonic() - begin
    batcher.close()
    assert alone_s >= 0.2
    assert full_s < 0.19, "a full batch does not wait"


def test_closing_finishes_what_waits() -> None:
    runner = LateRunner(InputSpec(64, 64), 1)
    batcher = Batcher(runner, 1, 10.0)
    found = [batcher.submit(image(10 + number)) for number in range(4)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.is_alive:
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="stopping"):
        batcher.submit(image())
    runner.door.set()
    closing.join(20)
    assert [width_of(one.result(0)) for one in found] == [10, 11, 12, 13]


def test_what_is_no_image_is_refused_at_once() -> None:
    batcher = Batcher(LateRunner(InputSpec(64, 64), 1), 1, 0.0)
    with pytest.raises(ValueError, match="HxWx3"):
        batcher.submit(np.zeros((4, 4), np.uint8))
    batcher.close()
