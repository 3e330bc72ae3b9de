"""``split_dataset``: sizes, repeatability, stratification, copies, the files, and reading them back."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detseg.data.check import check_dataset
from detseg.data.datasets.dataset import Dataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image

NUM_IMAGES = 20
NAMES = ("cat", "dog")


def write_images(folder: Path, numbers: range) -> None:
    for number in numbers:
        image = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        write_image(folder / f"{number:02d}.png", image)


def make_coco(root: Path) -> Path:
    """Images 0 to 14 in train, 15 to 19 in val; every image has a cat, every fourth a dog too."""
    for split, numbers in (("train", range(15)), ("val", range(15, NUM_IMAGES))):
        write_images(root / split, numbers)
        annotations = [
            {"id": 100 + 10 * number + label, "image_id": number, "category_id": 5 * label + 2, "bbox": [1, 2, 9, 8]}
            for number in numbers
            for label in (0, 1)
            if label == 0 or number % 4 == 0
        ]
        for entry in annotations:
            entry["score_of_annotator"] = entry["id"] / 7
        document: dict[str, Any] = {
            "info": {"year": 2031},
            "categories": [{"id": 5 * label + 2, "name": name} for label, name in enumerate(NAMES)],
            "images": [
                {"id": number, "file_name": f"{number:02d}.png", "height": 32, "width": 32, "license": number % 3}
                for number in numbers
            ],
            "annotations": annotations,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def make_voc(root: Path) -> Path:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>10</ymax></bndbox>"
    write_images(root / "JPEGImages", range(NUM_IMAGES))
    (root / "Annotations").mkdir()
    for number in range(NUM_IMAGES):
        names = NAMES if number % 4 == 0 else NAMES[:1]
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
        (root / "Annotations" / f"{number:02d}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "all.txt").write_text("".join(f"{number:02d}\n" for number in range(NUM_IMAGES)))
    return root


def make_yolo(root: Path) -> Path:
    write_images(root / "images" / "all", range(NUM_IMAGES))
    (root / "labels" / "all").mkdir(parents=True)
    for number in range(NUM_IMAGES):
        labels = (0, 1) if number % 4 == 0 else (0,)
        text = "".join(f"{label} 0.4 0.5 0.2 0.3\n" for label in labels)
        (root / "labels" / "all" / f"{number:02d}.txt").write_text(text)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


MAKERS = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo}


@pytest.fixture(params=MAKERS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MAKERS[request.param](tmp_path / "data")


def read_back(output: Path, split: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open_dataset(output, split)


def members(output: Path, *splits: str) -> list[list[str]]:
    """The file names of every split, sorted."""
    result = []
    for split in splits:
        dataset = read_back(output, split)
        result.append(sorted(Path(dataset.path(index)).name for index in range(len(dataset))))
    return result


def test_sizes_classes_and_read_back(data: Path, tmp_path: Path) -> None:
    result = split_dataset(data, "6:2:2", 0, tmp_path / "out")
    assert result.yaml_path == tmp_path / "out" / "data.yaml"
    assert {name: summary.num_images for name, summary in result.splits.items()} == {"train": 12, "val": 4, "test": 4}
    # Five dogs: three, one and one.
    assert [summary.num_boxes_by_class["dog"] for summary in result.splits.values()] == [3, 1, 1]
    everything = [name for part in members(tmp_path / "out", "train", "val", "test") for name in part]
    assert sorted(everything) == [f"{number:02d}.png" for number in range(NUM_IMAGES)]
    for split, summary in result.splits.items():
        dataset = read_back(tmp_path / "out", split)
        assert dataset.class_names == NAMES
        assert len(dataset) == summary.num_images
        samples = [dataset.load(index) for index in range(len(dataset))]
        assert sum(len(sample.boxes_xyxy) for sample in samples) == summary.num_boxes
    assert check_dataset(tmp_path / "out").exit_code == 0


def test_two_splits(data: Path, tmp_path: Path) -> None:
    split_dataset(data, "8:2", 0, tmp_path / "out")
    assert [len(part) for part in members(tmp_path / "out", "train", "val")] == [16, 4]
    with pytest.raises(DatasetError, match="no split 'test'"):
        read_back(tmp_path / "out", "test")


def test_same_seed_same_split_wherever_the_data_lies(data: Path, tmp_path: Path) -> None:
    splits = ("train", "val", "test")
    for name, seed in (("first", 7), ("second", 7), ("third", 8)):
        split_dataset(data, "6:2:2", seed, tmp_path / name)
    assert members(tmp_path / "first", *splits) == members(tmp_path / "second", *splits)
    first = members(tmp_path / "first", *splits)
    assert first != members(tmp_path / "third", *splits)
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(data, moved)
    split_dataset(moved, "6:2:2", 7, tmp_path / "fourth")
    assert members(tmp_path / "fourth", *splits) == first


def test_order_in_the_annotation_files_does_not_matter(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    for copy in range(8, 15):
        shutil.copy(root / "train" / f"{copy - 8:02d}.png", root / "train" / f"{copy:02d}.png")
    split_dataset(root, "6:2:2", 3, tmp_path / "before")
    generator = random.Random(1)
    for path in (root / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        generator.shuffle(document["images"])
        generator.shuffle(document["annotations"])
        path.write_text(json.dumps(document))
    split_dataset(root, "6:2:2", 3, tmp_path / "after")
    splits = ("train", "val", "test")
    assert members(tmp_path / "before", *splits) == members(tmp_path / "after", *splits)


def test_order_of_folders_and_lists_does_not_matter(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "data")
    split_dataset(root, "8:2", 3, tmp_path / "before")
    listed = root / "ImageSets" / "Main" / "all.txt"
    listed.write_text("\n".join(reversed(listed.read_text().split())))
    split_dataset(root, "8:2", 3, tmp_path / "after")
    assert (tmp_path / "before" / "val.txt").read_text() == (tmp_path / "after" / "val.txt").read_text()


@pytest.mark.parametrize("seed", range(5))
def test_copies_never_straddle_splits(data: Path, tmp_path: Path, seed: int) -> None:
    paths = sorted(data.rglob("*.png"))
    for original, copy in ((0, 19), (0, 7), (3, 11)):
        shutil.copy(paths[original], paths[copy])
    result = split_dataset(data, "6:2:2", seed, tmp_path / "out")
    assert result.num_copies == 3
    assert [summary.num_images for summary in result.splits.values()] == [12, 4, 4]
    parts = members(tmp_path / "out", "train", "val", "test")
    for group in ({"00.png", "19.png", "07.png"}, {"03.png", "11.png"}):
        assert any(group <= set(part) for part in parts)
    assert not any(finding.code == "D201" for finding in check_dataset(tmp_path / "out").findings)


def test_coco_keeps_ids_and_all_fields(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    split_dataset(root, "6:2:2", 0, tmp_path / "out")
    originals = [json.loads(path.read_text()) for path in sorted((root / "annotations").glob("*.json"))]
    parts = [json.loads((tmp_path / "out" / f"instances_{name}.json").read_text()) for name in ("train", "val", "test")]
    assert all(part["info"] == {"year": 2031} for part in parts)
    assert all(part["categories"] == originals[0]["categories"] for part in parts)

    def by_id(documents: list[dict[str, Any]], table: str) -> dict[int, dict[str, Any]]:
        return {entry["id"]: entry for document in documents for entry in document[table]}

    assert by_id(parts, "annotations") == by_id(originals, "annotations")
    images = by_id(parts, "images")
    assert {key: image["license"] for key, image in images.items()} == {number: number % 3 for number in range(20)}
    # Two folders of images became one, so the names say which.
    assert images[3]["file_name"] == "train/03.png"
    assert images[17]["file_name"] == "val/17.png"
    for part in parts:
        assert {entry["image_id"] for entry in part["annotations"]} <= {image["id"] for image in part["images"]}


def test_one_split_alone_keeps_its_file_names(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    split_dataset(root, "8:2", 0, tmp_path / "out", splits=["train"])
    assert sum(map(len, members(tmp_path / "out", "train", "val"))) == 15
    document = json.loads((tmp_path / "out" / "instances_val.json").read_text())
    assert all("/" not in image["file_name"] for image in document["images"])


def test_no_image_is_copied_and_nothing_is_left_beside(data: Path, tmp_path: Path) -> None:
    split_dataset(data, "8:2", 0, tmp_path / "deep" / "out")
    assert {path.suffix for path in (tmp_path / "deep").rglob("*") if path.is_file()} <= {".yaml", ".json", ".txt"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    settings = yaml.safe_load((tmp_path / "deep" / "out" / "data.yaml").read_text())
    assert settings["path"] == str(data.resolve())
    assert list(settings)[:4] == ["format", "path", "train", "val"]


def test_an_empty_folder_is_used(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    split_dataset(data, "8:2", 0, tmp_path / "out")
    assert len(read_back(tmp_path / "out", "val")) == 4


@pytest.mark.parametrize(
    ("ratios", "message"),
    [("8", "two or three positive numbers"), ("6:2:2:2", "two or three"), ("98:2", "20 images cannot be divided")],
)
def test_wrong_ratios(data: Path, tmp_path: Path, ratios: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_dataset(data, ratios, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_output(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the data set"):
        split_dataset(data, "8:2", 0, data / "out")
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(ValueError, match="inside the data set"):
        split_dataset(data, "8:2", 0, tmp_path / "link" / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for taken in ("full", "full/file"):
        with pytest.raises(ValueError, match="is there already and not an empty folder"):
            split_dataset(data, "8:2", 0, tmp_path / taken)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_broken_data_set_is_refused(data: Path, tmp_path: Path) -> None:
    min(data.rglob("*.png")).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"number of errors: 1; the first is D102 .*00\.png: .*\n.*`detseg check"):
        split_dataset(data, "8:2", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_coco_files_that_share_ids_get_new_ones(tmp_path: Path) -> None:
    """As every export of Roboflow, which counts from 0 in each file."""
    root = make_coco(tmp_path / "data")
    for path in (root / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        new_ids = {entry["id"]: number for number, entry in enumerate(document["images"])}
        for entry in document["images"]:
            entry["id"] = new_ids[entry["id"]]
        for number, entry in enumerate(document["annotations"]):
            entry |= {"id": number, "image_id": new_ids[entry["image_id"]], "score": entry["bbox"][0]}
        path.write_text(json.dumps(document))
    result = split_dataset(root, "8:2", 0, tmp_path / "out")
    assert check_dataset(result.yaml_path).num_findings("error") == 0
    written = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    for key in ("images", "annotations"):
        ids = sorted(entry["id"] for document in written for entry in document[key])
        assert ids == list(range(1, len(ids) + 1))
    assert all(entry["score"] == entry["bbox"][0] for document in written for entry in document["annotations"])
    # The boxes are still those of their images.
    before = {
        Path(dataset.path(index)).name: dataset.ground_truth(index).boxes_xywh.tolist()
        for dataset in (open_dataset(root, "train"), open_dataset(root, "val"))
        for index in range(len(dataset))
    }
    for split in ("train", "val"):
        dataset = open_dataset(result.yaml_path, split)
        for index in range(len(dataset)):
            assert dataset.ground_truth(index).boxes_xywh.tolist() == before[Path(dataset.path(index)).name]


def test_coco_files_of_other_categories_are_refused(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"dog"', '"hound"'))
    with pytest.raises(DatasetError, match="other categories than in"):
        split_dataset(root, "8:2", 0, tmp_path / "out")


def test_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="shapes has its splits built in"):
        split_dataset("shapes", "8:2", 0, tmp_path / "out")


def test_bccd(detseg_data: Path, tmp_path: Path) -> None:
    result = split_dataset(detseg_data / "bccd", "6:2:2", 0, tmp_path / "out")
    assert [summary.num_images for summary in result.splits.values()] == [175, 59, 58]
    totals = {"RBC": 2382 + 968, "WBC": 214 + 87, "Platelets": 209 + 83}
    for summary, num_images in zip(result.splits.values(), (175, 59, 58), strict=True):
        for name, total in totals.items():
            assert summary.num_boxes_by_class[name] / total == pytest.approx(num_images / 292, abs=0.01)
    assert [len(part) for part in members(tmp_path / "out", "train", "val", "test")] == [175, 59, 58]


def test_coco_mini(detseg_data: Path, tmp_path: Path) -> None:
    result = split_dataset(detseg_data / "coco-mini", "6:2:2", 0, tmp_path / "out")
    assert [summary.num_images for summary in result.splits.values()] == [96, 32, 32]
    whole = result.splits["train"].num_images_by_class
    spread = [name for name in whole if sum(one.num_images_by_class[name] for one in result.splits.values()) >= 4]
    assert len(spread) > 50
    missing = [name for name in spread for one in result.splits.values() if not one.num_boxes_by_class[name]]
    assert len(missing) <= 1
    dataset = read_back(tmp_path / "out", "train")
    original = json.loads((detseg_data / "coco-mini/annotations/instances_train2017.json").read_text())
    assert dataset.category_ids == tuple(category["id"] for category in original["categories"])
    dataset.load(0)
