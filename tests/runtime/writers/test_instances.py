"""Files with the masks of objects, read back by those who read such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as official

from detseg.data.datasets.dataset import Dataset
from detseg.data.open import open_dataset
from detseg.run_lengths import RunLengths, pack_masks
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.saving import Saving, make_writers
from detseg.runtime.media.images import write_image
from detseg.runtime.prediction import Prediction
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.instances import instance_records, instances_to_coco
from detseg.structures import Detections, Instances, LabelMap

NAMES = ("cat", "dog")
IMAGE = np.zeros((30, 50, 3), np.uint8)


def shapes() -> Any:
    """A ring, two parts with a bridge of one corner, noise, and nothing."""
    masks = np.zeros((4, 30, 50), bool)
    masks[0, 3:20, 5:30] = True
    masks[0, 8:15, 10:20] = False
    masks[1, 20:25, 30:35] = masks[1, 25:29, 35:44] = True
    masks[2] = np.random.default_rng(0).random((30, 50)) < 0.3
    return masks


def found(track_ids: Any = None) -> Instances:
    boxes = np.array([[5, 3, 30, 20], [30, 20, 44, 29], [0, 0, 50, 30], [1, 1, 2, 2]], np.float32)
    scores = np.array([0.9, 0.7, 0.5, 0.25], np.float32)
    return Instances(boxes, scores, np.array([1, 0, 1, 0]), track_ids, pack_masks(shapes()))


def save(name: str, folder: Path, result: Instances) -> None:
    (writer,) = make_writers([name], Saving(load_kind("instances"), folder, NAMES, (4, 9)), "instance")
    with writer:
        writer.write(Frame(IMAGE, "in/a.png", Path("in/a.png")), result)


def test_coco_results_hold_runs(tmp_path: Path) -> None:
    save("coco", tmp_path, found(np.array([3, 0, 1, 0])))
    records = json.loads((tmp_path / "detections.json").read_text())
    assert [record["category_id"] for record in records] == [9, 4, 9, 4]
    assert [list(record) for record in records[:2]] == [
        ["image_id", "category_id", "segmentation", "score", "track_id"],
        ["image_id", "category_id", "segmentation", "score"],
    ]
    decoded = np.array([official.decode(record["segmentation"]) for record in records])
    assert np.array_equal(decoded, shapes())


def test_yolo_outlines_are_read_back_to_the_pixel(tmp_path: Path) -> None:
    save("yolo", tmp_path / "found", found(np.array([3, 0, 1, 0])))
    lines = (tmp_path / "found" / "labels" / "a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0", "1"], "an object without a pixel has no outline"
    assert [line.split()[-1] for line in lines] == ["3", "0.700000", "1"]
    write_image(tmp_path / "data" / "images" / "train" / "a.png", IMAGE)
    labels = tmp_path / "data" / "labels" / "train" / "a.txt"
    labels.parent.mkdir(parents=True)
    ends = (-2, -1, -2)  # without score and track
    labels.write_text("\n".join(" ".join(line.split()[:end]) for line, end in zip(lines, ends, strict=True)))
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path / "data", "train", target="instances")
    assert isinstance(dataset, Dataset)
    assert list(dataset.object_masks(0)) == [RunLengths.from_mask(mask) for mask in shapes()[:3]]


def test_index_images_number_the_objects(tmp_path: Path) -> None:
    save("index", tmp_path, found())
    numbers = cv2.imread(str(tmp_path / "index" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (numbers.dtype, numbers.shape) == (np.uint16, (30, 50))
    masks = shapes()
    expected = np.select([masks[0], masks[1], masks[2]], [1, 2, 3], 0)
    assert np.array_equal(numbers, expected), "the better score is in front"


def test_lines_hold_box_and_mask(tmp_path: Path) -> None:
    save("jsonl", tmp_path, found())
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    records = json.loads(line)["detections"]
    assert records == instance_records(found(), NAMES)
    assert records[0]["box_xyxy"] == [5, 3, 30, 20]
    assert RunLengths.from_coco(records[1]["mask"]) == found().masks[1]


def test_more_objects_than_numbers_are_refused(tmp_path: Path) -> None:
    count = 2**16
    nothing = RunLengths.from_mask(np.zeros((30, 50), bool))
    many = Instances(
        np.zeros((count, 4), np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.int64),
        None,
        (nothing,) * count,
    )
    with pytest.raises(ValueError, match=r"in/a.png: a PNG of 16 bits numbers 65535 objects, got 65536"):
        save("index", tmp_path, many)


def test_a_prediction_converts_its_masks() -> None:
    prediction = Prediction(Frame(IMAGE), found(), NAMES, (4, 9), load_kind("instances"))
    assert prediction.to_coco(7) == instances_to_coco(7, found(), (4, 9))
    assert prediction.masks == found().masks
    assert prediction[1].mask == found().masks[1]
    boxes = Prediction(Frame(IMAGE), Detections.empty(), NAMES, (4, 9), load_kind("boxes"))
    assert boxes.masks is None
    with pytest.raises(TypeError, match="only boxes can be converted"):
        _ = Prediction(Frame(IMAGE), LabelMap(np.zeros((30, 50), np.uint8)), NAMES, (4, 9), load_kind("masks")).masks
