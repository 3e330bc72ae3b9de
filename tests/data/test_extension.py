"""A format of one's own: a class with two methods and a line in the table, and check, split, train and eval work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from detseg.cli import main
from detseg.data import DATASETS
from detseg.data.check import check_dataset
from detseg.data.format import DatasetFormat
from detseg.data.open import open_dataset
from detseg.data.records import BoxRecords
from detseg.data.source import DatasetError, DataSource
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image
from detseg.structures import Target

SIDE = 64
CONFIG = {
    "model": {
        "name": "detector",
        "backbone": {"name": "csp_darknet", "block": "c2f", "depth": 0.33, "width": 0.125, "max_channels": 1024},
        "neck": {"name": "pan", "block": "c2f", "depth": 0.33},
        "head": "dfl",
    },
    "task": {"name": "detection", "loss": "tal", "input": {"height": SIDE, "width": SIDE}},
    "augment": {"mosaic": 0.0},
    "train": {"epochs": 1, "batch_size": 2, "num_threads": 1, "device": "cpu"},
}


class FlatFormat(DatasetFormat):
    """``SPLIT.flat.json`` beside the images: a list of {file, height, width, boxes: [[x, y, w, h, class], ...]}."""

    layouts = ("SPLIT.flat.json beside the images",)

    def splits(self, source: DataSource) -> tuple[str, ...]:
        return tuple(sorted(path.name.removesuffix(".flat.json") for path in source.root.glob("*.flat.json")))

    def records(self, source: DataSource, split: str, target: Target) -> BoxRecords:
        path = source.root / f"{split}.flat.json"
        try:
            entries = json.loads(path.read_bytes())
        except ValueError as error:
            raise DatasetError(f"{path}: no JSON: {error}") from error
        records = BoxRecords(split, root=source.root, class_names=("dark", "bright"))
        for entry in entries:
            image = records.add_image(entry["file"], path, (entry["height"], entry["width"]))
            for number, (*box_xywh, label) in enumerate(entry["boxes"], 1):
                records.add_box(image, box_xywh, label, number)
        return records


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images in train and two in val, each with a dark and a bright box."""
    monkeypatch.setitem(DATASETS, "flat", f"{__name__}:FlatFormat")
    root = tmp_path / "flat"
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        entries = []
        for number in numbers:
            pixels = np.random.default_rng(number).integers(100, 130, (SIDE, SIDE, 3), dtype=np.uint8)
            cv2.rectangle(pixels, (4, 4), (23, 23), (0, 0, 0), -1)
            cv2.rectangle(pixels, (30, 30), (59, 59), (255, 255, 255), -1)
            write_image(root / f"{number}.png", pixels)
            boxes = [[4, 4, 20, 20, "dark"], [30, 30, 30, 30, 1]]
            entries.append({"file": f"{number}.png", "height": SIDE, "width": SIDE, "boxes": boxes})
        (root / f"{split}.flat.json").write_text(json.dumps(entries))
    return root


def _edit(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        entries = json.loads((root / "train.flat.json").read_text())
        change(entries)
        (root / "train.flat.json").write_text(json.dumps(entries))

    return apply


def _box(*box: Any) -> Callable[[Path], object]:
    return _edit(lambda entries: entries[0]["boxes"].append(list(box)))


TRAIN = "train.flat.json"
# What is done, the findings, whether the split can still be opened, whether all can be divided anew.
DAMAGE: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]], bool, bool]] = {
    "no JSON": (lambda root: (root / TRAIN).write_text("{"), [("D100", ".")], False, False),
    "an unknown class": (_box(1, 1, 9, 9, "gray"), [("D004", TRAIN)], False, False),
    "a class beyond the last": (_box(1, 1, 9, 9, 2), [("D004", TRAIN)], False, False),
    "a box that is not a number": (_box(1, 1, float("nan"), 9, 0), [("D005", TRAIN)], False, False),
    "a box of three numbers": (_box(1, 1, 9, 0), [("D005", TRAIN)], False, False),
    "a box without width": (_box(1, 1, 0, 9, 0), [("D001", TRAIN)], True, True),
    "a box that reaches out": (_box(50, 50, 20, 10, 0), [("D002", TRAIN)], True, True),
    "a box outside": (_box(70, 1, 9, 9, 0), [("D006", TRAIN)], True, True),
    "a box twice": (_box(4, 4, 20, 20, 0), [("D003", TRAIN)], True, True),
    "no boxes": (_edit(lambda entries: entries[0].update(boxes=[])), [("D104", "0.png")], True, True),
    "an image twice": (_edit(lambda entries: entries[1].update(file="0.png")), [("D106", "0.png")], True, False),
    "a missing image": (lambda root: (root / "0.png").unlink(), [("D101", "0.png")], True, False),
    "a truncated image": (
        lambda root: (root / "0.png").write_bytes((root / "0.png").read_bytes()[:20]),
        [("D102", "0.png")],
        True,
        False,
    ),
    "another size": (
        _edit(lambda entries: entries[0].update(height=32)),
        [("D002", TRAIN), ("D103", "0.png")],
        True,
        True,
    ),
    "an image in two splits": (
        lambda root: (root / "0.png").write_bytes((root / "7.png").read_bytes()),
        [("D201", "0.png")],
        True,
        True,
    ),
    "a class that val does not have": (
        lambda root: (root / "val.flat.json").write_text((root / "val.flat.json").read_text().replace('"dark"', "1")),
        [("D202", ".")],
        True,
        True,
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_told_alike_by_all(flat: Path, tmp_path: Path, name: str) -> None:
    break_it, expected, opens, divides = DAMAGE[name]
    break_it(flat)
    report = check_dataset(flat)
    place = str(flat)
    assert [(one.code, one.file) for one in report.findings] == [
        (code, place if file == "." else file) for code, file in expected
    ]
    if opens:
        assert len(open_dataset(flat, "train", target="boxes")) == 6
    else:
        with pytest.raises(DatasetError, match=r"train\.flat\.json"):
            open_dataset(flat, "train")
    if divides:
        assert split_dataset(flat, "6:2", 0, tmp_path / "new").yaml_path.is_file()
    else:
        with pytest.raises(DatasetError):
            split_dataset(flat, "6:2", 0, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_check_split_train_and_eval(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_dataset(flat).findings == ()
    assert check_dataset(flat).splits["train"].num_images_by_class == {"dark": 6, "bright": 6}

    result = split_dataset(flat, "5:3", 0, tmp_path / "new")
    assert {name: summary.num_images for name, summary in result.splits.items()} == {"train": 5, "val": 3}
    assert check_dataset(result.yaml_path).findings == ()
    truth = open_dataset(result.yaml_path, "val").ground_truth(0)
    assert truth.boxes_xywh.tolist() == [[4, 4, 20, 20], [30, 30, 30, 30]]
    assert truth.labels.tolist() == [0, 1]

    for number, data in enumerate((flat, result.yaml_path)):
        config = tmp_path / f"{number}.yaml"
        config.write_text(yaml.safe_dump({**CONFIG, "data": {"path": str(data), "num_workers": 0}}))
        run = tmp_path / f"run{number}"
        assert main(["train", str(config), "-o", str(run)]) == 0
        metrics = tmp_path / f"metrics{number}.json"
        assert main(["eval", str(run / "best.safetensors"), "--data", str(data), "--json", str(metrics)]) == 0
        assert 0 <= json.loads(metrics.read_text())["AP"] <= 1
