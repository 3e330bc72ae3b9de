from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.class_map import merge_classes
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image

SIDE = 32
NAMES = ["bus", "car", "van", "Person"]
MERGE = {"van": "car", "bus": "car", "Person": "person"}


@pytest.mark.parametrize(
    ("class_map", "names", "kept", "position_of"),
    [
        ({}, ("bus", "car", "van"), (0, 1, 2), (0, 1, 2)),
        ({"van": "car"}, ("bus", "car"), (0, 1), (0, 1, 1)),
        # The class that has the name keeps its place and number, wherever the others stood.
        ({"bus": "car"}, ("car", "van"), (1, 2), (0, 0, 1)),
        ({"bus": "motor", "van": "motor"}, ("motor", "car"), (0, 1), (0, 1, 0)),
        # Two that change places stay two.
        ({"bus": "car", "car": "bus"}, ("car", "bus", "van"), (0, 1, 2), (0, 1, 2)),
        ({"bus": "all", "car": "all", "van": "all"}, ("all",), (0,), (0, 0, 0)),
    ],
)
def test_merging(
    class_map: dict[str, str], names: tuple[str, ...], kept: tuple[int, ...], position_of: tuple[int, ...]
) -> None:
    assert merge_classes(("bus", "car", "van"), class_map) == (names, kept, position_of)


def some_image(path: Path) -> None:
    seed = sum(map(ord, str(path.name)))
    write_image(path, np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco(root: Path) -> dict[str, Any]:
    boxes = [
        {"id": n + 1, "image_id": 1, "category_id": 10 * (n + 1), "bbox": [n, n, 9, 9], "area": 81, "iscrowd": 0}
        for n in range(len(NAMES))
    ]
    document = {
        "images": [{"id": 1, "file_name": "1.png", "height": SIDE, "width": SIDE}],
        "annotations": boxes,
        "categories": [{"id": 10 * (n + 1), "name": name} for n, name in enumerate(NAMES)],
    }
    write(root / "train.json", json.dumps(document))
    some_image(root / "images/1.png")
    return {"format": "coco", "train": {"images": "images", "annotations": "train.json"}}


def yolo(root: Path) -> dict[str, Any]:
    some_image(root / "images/train/1.png")
    write(root / "labels/train/1.txt", "".join(f"{label} 0.5 0.5 0.{label + 1} 0.2\n" for label in range(len(NAMES))))
    return {"format": "yolo", "names": NAMES, "train": "images/train"}


def voc(root: Path) -> dict[str, Any]:
    some_image(root / "JPEGImages/1.png")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in NAMES)
    write(root / "Annotations/1.xml", f"<annotation>{objects}</annotation>")
    write(root / "ImageSets/Main/train.txt", "1\n")
    return {"format": "voc", "names": NAMES}


def describe(root: Path, settings: dict[str, Any], class_map: Any) -> Path:
    path = root / "described.yaml"
    path.write_text(yaml.safe_dump({**settings, "path": str(root), "classes": class_map}))
    return path


@pytest.mark.parametrize(("make", "numbers"), [(coco, (20, 40)), (yolo, (1, 2)), (voc, (1, 2))])
def test_boxes_in_every_format(tmp_path: Path, make: Any, numbers: tuple[int, ...]) -> None:
    path = describe(tmp_path, make(tmp_path), MERGE)
    dataset = open_dataset(path, "train")
    assert isinstance(dataset, Dataset)
    assert dataset.class_names == ("car", "person")
    assert dataset.category_ids == numbers
    assert dataset.load(0).labels.tolist() == [0, 0, 0, 1]
    report = check_dataset(path)
    assert report.findings == () or {one.code for one in report.findings} == {"D003"}, "one class, one box twice"
    assert report.splits["train"].num_boxes_by_class == {"car": 3, "person": 1}


def test_new_splits_keep_the_map(tmp_path: Path) -> None:
    settings = yolo(tmp_path / "set")
    for number in (2, 3, 4):
        some_image(tmp_path / f"set/images/train/{number}.png")
        write(tmp_path / f"set/labels/train/{number}.txt", "0 0.5 0.5 0.2 0.2\n")
    made = split_dataset(describe(tmp_path / "set", settings, MERGE), "5:5", 0, tmp_path / "new")
    assert open_dataset(made.yaml_path, "train").class_names == ("car", "person")
    assert open_dataset(made.yaml_path, "val").class_names == ("car", "person")


@pytest.mark.parametrize("colored", [False, True])
def test_masks(tmp_path: Path, colored: bool) -> None:
    colors = np.array([[9, 9, 9], [50, 0, 0], [0, 60, 0], [0, 0, 70], [255, 255, 255]], np.uint8)
    labels = np.arange(5, dtype=np.uint8).reshape(1, 5).repeat(2, 0)
    image_of = np.full((2, 5, 3), 40, np.uint8)
    write_image(tmp_path / "train/images/a.png", image_of)
    (tmp_path / "train/masks").mkdir()
    Image.fromarray(colors[labels] if colored else labels).save(tmp_path / "train/masks/a.png")
    settings: dict[str, Any] = {"format": "masks", "names": NAMES, "ignore_index": 4}
    if colored:
        settings |= {"colors": colors[:4].tolist(), "ignore_index": colors[4].tolist()}
    path = describe(tmp_path, settings, MERGE)
    dataset = open_dataset(path, "train")
    assert isinstance(dataset, Dataset)
    assert dataset.class_names == ("car", "person")
    assert dataset.category_ids == ((0, 1) if colored else (1, 3))
    assert dataset.mask(0).tolist() == [[0, 0, 0, 1, 255]] * 2
    report = check_dataset(path)
    assert report.findings == ()
    assert report.splits["train"].num_pixels_by_class == {"car": 6, "person": 2}
    before = dataset.fingerprint(0)
    other = open_dataset(describe(tmp_path, settings, {"bus": "car", "van": "Person"}), "train")
    assert other.fingerprint(0) != before
    only_one = check_dataset(describe(tmp_path, settings, dict.fromkeys(NAMES, "thing")))
    assert [one.code for one in only_one.findings] == ["D310"]


def volume_set(root: Path) -> dict[str, Any]:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4, :2], labels[:4, 2:4], labels[4:, 4:] = 1, 2, 3
    for folder, voxels in (("images", labels.astype(np.float32)), ("labels", labels)):
        (root / folder).mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / folder / "a.nii.gz")
    write(root / "train.txt", str(root / "images/a.nii.gz"))
    write(root / "train_labels.txt", str(root / "labels/a.nii.gz"))
    names = {0: "background", 1: "Anterior", 2: "Posterior", 3: "Lesion"}
    return {"format": "nifti", "names": names, "train": {"images": "train.txt", "labels": "train_labels.txt"}}


def test_volumes(tmp_path: Path) -> None:
    settings = volume_set(tmp_path)
    path = describe(tmp_path, settings, {"Posterior": "hippocampus", "Anterior": "hippocampus", "Lesion": "background"})
    dataset = open_dataset(path, "train")
    assert isinstance(dataset, VolumeDataset)
    assert dataset.class_names == ("background", "hippocampus")
    assert dataset.category_ids == (0, 1)
    assert np.bincount(dataset.label_volume(0).labels.ravel()).tolist() == [512 - 128, 128]
    report = check_dataset(path)
    assert [one.code for one in report.findings] == []
    assert report.splits["train"].milliliters_by_class == {"hippocampus": pytest.approx(0.128)}
    plain = open_dataset(describe(tmp_path, settings, {"Lesion": "lesion"}), "train")
    assert plain.class_names == ("background", "Anterior", "Posterior", "lesion")
    assert plain.fingerprint(0) != dataset.fingerprint(0)
    with pytest.raises(DatasetError, match="classes: all become one thing; volumes need two"):
        open_dataset(describe(tmp_path, settings, dict.fromkeys(settings["names"].values(), "one thing")), "train")


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"Car": "auto"}, r"classes: 'Car' is no class of the data set; it has bus, car, van, Person"),
        (["car"], r"classes: expected old names with new ones, \{van: car\}, got \['car'\]"),
        ({}, "classes: expected old names with new ones"),
        ({"car": None}, "classes: every class name must be text, got None"),
        ({True: "car"}, "classes: every class name must be text, got True; put it in quotes"),
        ({"car": " "}, "classes: every class name must be text"),
    ],
)
def test_maps_that_are_wrong(tmp_path: Path, class_map: Any, message: str) -> None:
    path = describe(tmp_path, yolo(tmp_path), class_map)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path, "train")


def test_a_class_that_only_another_split_names(tmp_path: Path) -> None:
    settings = coco(tmp_path)
    document = json.loads((tmp_path / "train.json").read_text())
    document["categories"] = document["categories"][1:2]
    document["annotations"] = document["annotations"][1:2]
    write(tmp_path / "val.json", json.dumps(document))
    settings["val"] = {"images": "images", "annotations": "val.json"}
    path = describe(tmp_path, settings, MERGE)
    assert open_dataset(path, "val").class_names == ("car",)


def test_computed_classes_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("format: shapes\nclasses: {circle: round}\n")
    with pytest.raises(DatasetError, match="the names of classes that are computed cannot be changed"):
        open_dataset(path, "train")


def test_spellings_of_one_class_are_told(tmp_path: Path) -> None:
    names = ["traffic light", "Car", "car", "Traffic_Light", "bus"]
    some_image(tmp_path / "images/train/1.png")
    write(tmp_path / "labels/train/1.txt", "".join(f"{n} 0.5 0.5 0.{n + 1} 0.2\n" for n in range(5)))
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"names": names, "train": "images/train"}))
    told = [one.message for one in check_dataset(path).findings if one.code == "D205"]
    advice = "are several classes; one is made of them by"
    assert told == [
        f'traffic light, Traffic_Light {advice} `classes: {{"traffic light": "Traffic_Light"}}`',
        f'Car, car {advice} `classes: {{"Car": "car"}}`',
    ]
    path.write_text(path.read_text() + 'classes: {"Car": "car", "traffic light": "Traffic_Light"}\n')
    assert check_dataset(path).findings == ()
