"""Instances of Pascal VOC: numbers of objects in the images of SegmentationObject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.datasets.dataset import Dataset
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image

SIZE = (20, 40)


def numbers() -> Any:
    """A cat with a hole and a border, and a dog in two parts; between them nothing."""
    pixels = np.zeros(SIZE, np.uint8)
    pixels[2:12, 4:16] = 255
    pixels[3:11, 5:15] = 1
    pixels[5:8, 8:10] = 0
    pixels[14:18, 20:25] = pixels[14:18, 30:36] = 2
    return pixels


def write(folder: Path, name: str, pixels: Any, *objects: tuple[str, tuple[int, int, int, int]]) -> None:
    """``objects`` by their names and corners; ``pixels`` as an image with a palette, as VOC has them."""
    write_image(folder / "JPEGImages" / f"{name}.png", np.zeros((*SIZE, 3), np.uint8))
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in objects
    )
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{items}</annotation>")
    if pixels is not None:
        image = Image.fromarray(pixels).convert("P")
        image.putdata(pixels.ravel().tolist())
        image.putpalette([value for number in range(256) for value in (number * 7 % 256, number * 13 % 256, 99)])
        (folder / "SegmentationObject").mkdir(exist_ok=True)
        image.save(folder / "SegmentationObject" / f"{name}.png")


def write_list(folder: Path, kind: str, split: str, *names: str) -> None:
    path = folder / "ImageSets" / kind / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


CAT, DOG = ("cat", (5, 3, 15, 11)), ("dog", (20, 14, 36, 18))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with boxes, of which one has masks."""
    write(tmp_path, "a", numbers(), CAT, DOG)
    write(tmp_path, "b", None, DOG)
    write_list(tmp_path, "Main", "train", "a", "b")
    write_list(tmp_path, "Segmentation", "train", "a")
    return tmp_path


def test_the_images_with_masks_are_read(folder: Path) -> None:
    dataset = open_dataset(folder, "train", target="instances")
    assert isinstance(dataset, Dataset)
    assert [Path(dataset.path(index)).stem for index in range(len(dataset))] == ["a"]
    assert len(open_dataset(folder, "train")) == 2
    sample = dataset.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, [numbers() == 1, numbers() == 2])
    assert [dataset.class_names[label] for label in sample.labels] == ["cat", "dog"]
    assert sample.boxes_xyxy.tolist() == [list(CAT[1]), list(DOG[1])]
    assert dataset.ground_truth(0).areas.tolist() == [74, 44], "those of the masks"


def test_without_lists_of_its_own_all_images_count(folder: Path) -> None:
    (folder / "ImageSets" / "Segmentation" / "train.txt").unlink()
    with pytest.raises(DatasetError, match=r"SegmentationObject/b.png: there is no such file; the mask of .*b.xml was"):
        open_dataset(folder, "train", target="instances")


def test_lists_of_masks_alone_make_splits(folder: Path) -> None:
    (folder / "ImageSets" / "Main" / "train.txt").unlink()
    assert available_splits(folder) == ("train",)
    for truth in ("boxes", "instances"):
        assert len(open_dataset(folder, "train", target=truth)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "objects", "words"),
    [
        (numbers(), (CAT,), "there are 1 objects, but pixels of number 2 in .*SegmentationObject/a.png"),
        (np.where(numbers() == 2, 0, numbers()), (CAT, DOG), "object 2: has no outline, which instances are learned"),
    ],
)
def test_numbers_and_objects_belong_together(folder: Path, pixels: Any, objects: Any, words: str) -> None:
    write(folder, "a", pixels.astype(np.uint8), *objects)
    with pytest.raises(DatasetError, match=words):
        open_dataset(folder, "train", target="instances")


def test_masks_of_another_size_are_named(folder: Path) -> None:
    write(folder, "a", numbers()[:, :30].copy(), CAT, DOG)
    dataset = open_dataset(folder, "train", target="instances")
    assert isinstance(dataset, Dataset)
    with pytest.raises(DatasetError, match=r"annotation 1: the mask is of 30x20 pixels, but its image has 40x20"):
        dataset.load(0)


def test_check_looks_at_the_masks(folder: Path) -> None:
    report = check_dataset(folder, target="instances")
    assert [code for code in report.by_code() if code not in ("D105", "D203")] == [], "but for the image without masks"
    numbers_elsewhere = np.roll(numbers(), 6, axis=0)
    write(folder, "a", numbers_elsewhere, CAT, DOG)
    assert [one.annotation_ids for one in check_dataset(folder, target="instances").by_code()["D012"]] == [(1,), (2,)]
    (folder / "SegmentationObject" / "a.png").write_bytes(b"no image")
    report = check_dataset(folder, target="instances")
    assert (report.exit_code, {"D302", "D009"} <= report.by_code().keys()) == (2, True)
    assert "D302" not in check_dataset(folder).by_code(), "boxes do without"


@pytest.mark.parametrize(
    ("corners", "area"),
    [("4,3,14,3,14,11,4,11", 80), ("4,3,14,3", None), ("4,3,14,3,14,x", None), ("4,3,14,3,14,11,4", 40)],
)
def test_polygons_in_the_xml_are_outlines(tmp_path: Path, corners: str, area: int | None) -> None:
    write(tmp_path, "a", None, ("cat", (4, 3, 14, 11)))
    path = tmp_path / "Annotations" / "a.xml"
    values = corners.split(",")
    polygon = "".join(
        f"<{'xy'[at % 2]}{at // 2 + 1}>{one}</{'xy'[at % 2]}{at // 2 + 1}>" for at, one in enumerate(values)
    )
    path.write_text(path.read_text().replace("</object>", f"<polygon>{polygon}</polygon></object>"))
    boxes = open_dataset(tmp_path, "all", target="boxes")
    assert isinstance(boxes, Dataset)
    assert boxes.load(0).boxes_xyxy.tolist() == [[4, 3, 14, 11]]
    if area is None:
        with pytest.raises(DatasetError, match="object 1: has no outline"):
            open_dataset(tmp_path, "all", target="instances")
        return
    instances = open_dataset(tmp_path, "all", target="instances")
    assert isinstance(instances, Dataset)
    (mask,) = instances.object_masks(0)
    assert mask.area == area
