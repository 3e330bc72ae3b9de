from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.runtime.kinds import load_kind
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.writers.base import JsonLinesWriter
from detseg.runtime.writers.boxes import COLUMNS, CsvWriter, YoloWriter
from detseg.runtime.writers.masks import encode_rle
from detseg.structures import IGNORE_INDEX, Detections, LabelMap

NAMES = ("cat", "dog")
BOXES_RECORD = partial(load_kind("boxes").record, class_names=NAMES)
MASKS = partial(load_kind("masks").record, class_names=NAMES)
IMAGE = np.zeros((40, 80, 3), np.uint8)
BOXES = np.array([[10, 10, 30, 20], [0, 0.1, 80, 40]], np.float32)
FOUND = Detections(BOXES, np.array([0.9, 0.25], np.float32), np.array([1, 0]))
TRACKED = Detections(BOXES, FOUND.scores, FOUND.labels, np.array([3, 12]))
STILL = Frame(IMAGE, "in/a, b.jpg", Path("in/a, b.jpg"))
MOVING = Frame(IMAGE, "walk.mp4", Path("walk.mp4"), 7, 0.28, StreamInfo(25.0, 80, 40))


def test_a_row_for_every_object(tmp_path: Path) -> None:
    with CsvWriter(tmp_path / "d.csv", NAMES) as writer:
        writer.write(STILL, FOUND)
        writer.write(STILL, Detections.empty())
        writer.write(MOVING, TRACKED)
        assert not (tmp_path / "d.csv").exists()
    with (tmp_path / "d.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        list(COLUMNS),
        ["in/a, b.jpg", "", "", "dog", "0.9", "10.0", "10.0", "30.0", "20.0", ""],
        ["in/a, b.jpg", "", "", "cat", "0.25", "0.0", "0.1", "80.0", "40.0", ""],
        ["walk.mp4", "7", "0.28", "dog", "0.9", "10.0", "10.0", "30.0", "20.0", "3"],
        ["walk.mp4", "7", "0.28", "cat", "0.25", "0.0", "0.1", "80.0", "40.0", "12"],
    ]


def test_a_line_for_every_image(tmp_path: Path) -> None:
    with JsonLinesWriter(tmp_path / "r.jsonl", BOXES_RECORD) as writer:
        writer.write(STILL, FOUND.select(np.array([0])))
        writer.write(STILL, Detections.empty())
        writer.write(MOVING, TRACKED.select(np.array([1])))
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    size = {"height": 40, "width": 80}
    dog = {"class": "dog", "class_index": 1, "score": 0.9, "box_xyxy": [10.0, 10.0, 30.0, 20.0]}
    cat = {"class": "cat", "class_index": 0, "score": 0.25, "box_xyxy": [0.0, 0.1, 80.0, 40.0], "track_id": 12}
    assert lines == [
        {"file": "in/a, b.jpg", **size, "detections": [dog]},
        {"file": "in/a, b.jpg", **size, "detections": []},
        {"file": "walk.mp4", **size, "frame": 7, "time_s": 0.28, "detections": [cat]},
    ]


def test_masks_as_run_lengths(tmp_path: Path) -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    labels = np.full((40, 80), IGNORE_INDEX, np.uint8)
    labels[5:20, 3:60] = 1
    with JsonLinesWriter(tmp_path / "r.jsonl", MASKS) as writer:
        writer.write(STILL, LabelMap(labels))
    (line,) = (json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines())
    assert list(line["classes"]) == ["dog"]
    assert line["classes"]["dog"]["pixels"] == 15 * 57
    assert np.array_equal(mask_module.decode(line["classes"]["dog"]["rle"]), labels == 1)


def test_run_lengths_are_those_of_pycocotools() -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    masks = [random.random(tuple(random.integers(1, 40, 2))) < share for share in np.linspace(0, 1, 200)]
    # Runs of more than 2^15, whose differences take many groups of bits, up and down
    masks += [np.arange(300 * 400).reshape(300, 400) % period < run for period, run in ((90_000, 3), (70_001, 60_000))]
    for mask in masks:
        expected: dict[str, Any] = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_rle(mask) == {"size": list(expected["size"]), "counts": expected["counts"].decode()}


def test_yolo_files(tmp_path: Path) -> None:
    with YoloWriter(tmp_path / "labels") as writer:
        writer.write(STILL, FOUND)
        writer.write(MOVING, TRACKED.select(np.array([0])))
        writer.write(Frame(IMAGE, "none.png"), Detections.empty())
    assert {path.name: path.read_text() for path in (tmp_path / "labels").iterdir()} == {
        "a, b.txt": "1 0.250000 0.375000 0.250000 0.250000 0.900000\n0 0.500000 0.501250 1.000000 0.997500 0.250000\n",
        "walk_000007.txt": "1 0.250000 0.375000 0.250000 0.250000 0.900000 3\n",
        "none.txt": "",
    }
    with pytest.raises(ValueError, match="name another output folder"):
        YoloWriter(tmp_path, [tmp_path / "x.png"])


@pytest.mark.parametrize(("writer_type", "about"), [(CsvWriter, NAMES), (JsonLinesWriter, BOXES_RECORD)])
def test_an_interrupted_run_leaves_the_results_before_and_what_it_found(
    tmp_path: Path, writer_type: Any, about: Any
) -> None:
    path = tmp_path / "r.txt"
    path.write_text("before")

    def interrupted() -> None:
        with writer_type(path, about) as writer:
            writer.write(STILL, FOUND)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    unfinished = tmp_path / "r.unfinished.txt"
    assert sorted(tmp_path.iterdir()) == [path, unfinished]
    assert "dog" in unfinished.read_text()
    with writer_type(path, about) as writer:
        writer.write(Frame(IMAGE, "in/\udcff.jpg"), FOUND)
    assert "udcff" in path.read_text()
