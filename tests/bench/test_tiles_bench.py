"""The made picture holds what it says, and the judge counts as by hand. What programs reach is measured by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detseg.structures import Detections

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_tiles", REPOSITORY / "bench" / "tiles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_tiles"] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_hold_what_they_say(bench: ModuleType) -> None:
    picture = bench.make_picture(2, 200)
    assert picture.image.shape == (400, 400, 3)
    assert len(picture.boxes_xyxy) == len(picture.labels) == 4 * bench.OBJECTS_PER_IMAGE
    # each in the image that it was drawn in
    assert np.array_equal(picture.boxes_xyxy[:, :2] // 200, (picture.boxes_xyxy[:, 2:] - 1) // 200)
    assert len(np.unique(picture.boxes_xyxy[:, :2] // 200, axis=0)) == 4


def test_the_judge_counts_found_wrong_and_twice(bench: ModuleType) -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float64)
    picture = bench.Picture(np.zeros((10, 50, 3), np.uint8), boxes, np.array([0, 0, 1]))
    found = Detections(
        np.array([[0, 0, 10, 10], [0, 0, 10, 9], [40, 0, 50, 10], [21, 0, 30, 10]], np.float32),
        np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        np.array([0, 0, 0, 0]),
    )
    row = bench.judge("made", found, picture, 1.0)
    # the second is the first object again, the third of another class
    assert (row.num_found, row.recall, row.precision, row.num_twice) == (4, pytest.approx(2 / 3), 0.5, 1)
    assert "| made | 4 | 0.6667 | 0.5000 | 1 | 1.00 |" in bench.render([row])


def test_the_programs_run(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    picture = bench.make_picture(1, 250)
    programs = bench.programs_of(REPOSITORY / "weights" / "detseg_n_shapes.safetensors", 160, 0.2)
    rows = bench.measure(programs, picture, repeats=1)
    assert rows[1].name == "tiles 160, 0.2"
    assert rows[1].recall >= 0.8
    assert len(rows) == 3 or "SAHI is not installed here" in capsys.readouterr().out
