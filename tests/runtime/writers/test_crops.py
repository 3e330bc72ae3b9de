from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg.runtime.media.images import read_image
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.writers.crops import CropWriter
from detseg.structures import Detections

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def found(*boxes: tuple[float, ...], tracks: list[int] | None = None) -> Detections:
    count = len(boxes)
    ids = None if tracks is None else np.array(tracks)
    return Detections(np.array(boxes, np.float32), np.full(count, 0.5, np.float32), np.arange(count) % 2, ids)


def test_each_object_is_an_image(tmp_path: Path) -> None:
    with CropWriter(tmp_path / "crops", ("red/cell", "..")) as writer:
        writer.write(Frame(IMAGE, "a.png"), found((10.4, 5, 20.2, 15), (-5, -5, 8, 8), (70, 5, 80, 15)))
        writer.write(Frame(IMAGE, "b.mp4", None, 7, 0.3, StreamInfo(25, 60, 40)), found((0, 0, 60, 40), tracks=[12]))
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")}
    assert made == {
        "crops/red_cell/a_1.jpg", "crops/class_1/a_2.jpg", "crops/red_cell/b_000007_1_id12.jpg",
    }  # fmt: skip
    # Every pixel that a box touches, inside of the image.
    assert read_image(tmp_path / "crops/red_cell/a_1.jpg").shape == (10, 11, 3)
    assert read_image(tmp_path / "crops/class_1/a_2.jpg").shape == (8, 8, 3)


def test_classes_whose_names_a_folder_cannot_tell_apart(tmp_path: Path) -> None:
    with CropWriter(tmp_path, ("a:b", "A?b")) as writer:
        writer.write(Frame(IMAGE, "a.png"), found((1, 1, 5, 5), (2, 2, 6, 6)))
    assert {path.parent.name for path in tmp_path.rglob("*.jpg")} == {"a_b", "A_b_1"}
