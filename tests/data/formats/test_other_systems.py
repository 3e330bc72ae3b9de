"""Names and texts as other systems write them, and data sets that say a thing in one place of several."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.check import check_dataset
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.run_lengths import RunLengths
from detseg.runtime.media.images import write_image
from detseg.structures import Target

HEIGHT, WIDTH = 48, 64
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
BOX = "0 0.5 0.5 0.5 0.25\n"
"""As pixels: from 16, 18 to 48, 30."""
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def some_image(path: Path) -> None:
    seed = sum(str(path).encode())
    write_image(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def boxes(root: Path, split: str, target: Target | None = None) -> dict[str, list[list[float]]]:
    """The boxes in each image, by the names of the files."""
    dataset = open_dataset(root, split, target=target)
    return {Path(dataset.path(index)).name: dataset.load(index).boxes_xyxy.tolist() for index in range(len(dataset))}


def codes(root: Path) -> list[str]:
    return sorted(finding.code for finding in check_dataset(root).findings if finding.code not in ("D202", "D204"))


# YOLO


def yolo(root: Path, image: str = "a.png", labels: str = "a.txt", text: str | bytes = BOX, yaml: str = YAML) -> Path:
    """An image in train with the label file ``labels``, and another that is plain."""
    write(root / "data.yaml", yaml)
    some_image(root / "images/train" / image)
    write(root / "labels/train" / labels, text)
    for split in ("train", "val"):
        some_image(root / f"images/{split}/{split}.png")
        write(root / f"labels/{split}/{split}.txt", BOX)
    return root


@pytest.mark.parametrize(
    ("image", "labels"),
    [("a.PNG", "a.TXT"), ("A.png", "a.txt"), (f"{DECOMPOSED}.png", f"{COMPOSED}.txt")],
)
def test_labels_whose_names_other_systems_take_for_the_same(tmp_path: Path, image: str, labels: str) -> None:
    root = yolo(tmp_path, image, labels)
    assert boxes(root, "train")[image] == [[16, 18, 48, 30]]
    assert codes(root) == []


def test_labels_of_another_image_are_not_taken(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    some_image(root / "images/train/A.png")  # background: a.txt is that of a.png
    assert boxes(root, "train")["A.png"] == []
    write(root / "labels/train/a.TXT", BOX * 2)
    write(root / "labels/train/A.tXt", BOX * 2)  # which one is meant is unclear
    assert boxes(root, "train")["A.png"] == []
    assert codes(root) == ["D101", "D101", "D104"]


def test_utf16_with_a_mark(tmp_path: Path) -> None:
    lists = YAML.replace("images/train", "train.txt")
    root = yolo(tmp_path, text=BOX.replace("\n", "\r\n").encode("utf-16"), yaml=lists)
    write(root / "train.txt", "images/train/a.png\r\n".encode("utf-16"))
    write(root / "data.yaml", lists.encode("utf-16"))
    assert boxes(root, "train") == {"a.png": [[16, 18, 48, 30]]}
    write(root / "data.yaml", lists.replace("cat", "café").encode("latin-1"))
    with pytest.raises(DatasetError, match=r"not UTF-8, .* at byte 44; save it as UTF-8"):
        open_dataset(root, "train")


@pytest.mark.parametrize("train", [r"images\train", r".\images\train", "list.txt"])
def test_backslashes_in_a_yaml_and_in_lists(tmp_path: Path, train: str) -> None:
    root = yolo(tmp_path, yaml=YAML.replace("images/train", train))
    write(root / "list.txt", ".\\images\\train\\a.png\r\nimages\\train\\train.png\r\n")
    assert {name: len(found) for name, found in boxes(root, "train").items()} == {"a.png": 1, "train.png": 1}


def test_a_path_of_another_machine(tmp_path: Path) -> None:
    root = yolo(tmp_path / "cells", yaml=f"path: D:\\sets\\cells\n{YAML}")
    assert len(boxes(root, "train")) == 2  # the folder of this name
    write(root / "data.yaml", f"path: /content/others\n{YAML}")
    with pytest.raises(DatasetError, match=r"tried /content/others; .*may be left out where the YAML lies in it"):
        open_dataset(root, "train")


def test_lines_that_are_not_what_kpt_shape_says(tmp_path: Path) -> None:
    # Three points of four: an odd number of values, as polygons have it.
    root = yolo(tmp_path, text=f"{BOX.strip()} .4 .4 .5 .5 .6 .6\n", yaml=f"{YAML}kpt_shape: [4, 2]\n")
    with pytest.raises(DatasetError, match=r"a box of 5 numbers, alone or with 8 of key points, .* got 11"):
        open_dataset(root, "train")


def test_a_confidence_behind_a_box(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="if the last one is a confidence, these are predictions"):
        open_dataset(yolo(tmp_path, text=f"{BOX.strip()} 0.93\n"), "train")


def test_folders_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", "train: Images/train\nval: Images/train\nnames: [cat]\n")
    some_image(tmp_path / "Images/train/a.png")
    write(tmp_path / "Labels/train/a.txt", BOX)
    assert boxes(tmp_path, "train") == {"a.png": [[16, 18, 48, 30]]}


@pytest.mark.parametrize(
    ("files", "names", "splits"),
    [
        (["obj_train_data/a", "obj_valid_data/b"], "obj.names", ("train", "valid")),
        (["obj_train_data/task/a", "obj_train_data/task/b"], "obj.names", ("all",)),
        (["train/a", "valid/b"], "train/_darknet.labels", ("train", "valid")),
    ],
)
def test_labels_beside_images_in_folders_of_splits(
    tmp_path: Path, files: list[str], names: str, splits: tuple[str, ...]
) -> None:
    """As CVAT and Roboflow export them; no split may get lost."""
    for file in files:
        some_image(tmp_path / f"{file}.png")
        write(tmp_path / f"{file}.txt", BOX)
    write(tmp_path / names, "cat\n")
    assert available_splits(tmp_path) == splits
    assert sum(len(found) for split in splits for found in boxes(tmp_path, split).values()) == 2
    assert codes(tmp_path) == []


def test_lists_of_classes_that_differ_by_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        some_image(tmp_path / f"{split}/a.png")
        write(tmp_path / f"{split}/a.txt", BOX)
        write(tmp_path / f"{split}/_darknet.labels", f"{split}\n")
    with pytest.raises(DatasetError, match=r"valid/_darknet.labels: other classes than in"):
        open_dataset(tmp_path, "train")


def test_the_list_of_classes_that_labelimg_lays_beside_the_labels(tmp_path: Path) -> None:
    some_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", BOX)
    write(tmp_path / "labels/classes.txt", "cat\n")
    assert boxes(tmp_path, "all") == {"a.png": [[16, 18, 48, 30]]}
    assert codes(tmp_path) == []


def test_an_empty_line_between_classes(tmp_path: Path) -> None:
    """Whether it shifts the numbers of those behind it, programs do not agree upon."""
    some_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", BOX)
    write(tmp_path / "classes.txt", "cat\n\ndog\n\n")
    with pytest.raises(DatasetError, match=r"classes\.txt: line 2 is empty"):
        open_dataset(tmp_path, "all")
    write(tmp_path / "classes.txt", "cat\ndog\n\n")
    assert open_dataset(tmp_path, "all").class_names == ("cat", "dog")


def test_a_yaml_without_names(tmp_path: Path) -> None:
    root = yolo(tmp_path, yaml="train: images/train\nval: images/val\nnc: 3\n")
    with pytest.raises(DatasetError, match=r"no `names:`.* add `names: \[NAME_0, NAME_1, NAME_2\]`"):
        open_dataset(root, "train")


# COCO


def coco(root: Path, change: Callable[[dict[str, Any]], object], place: str = "a.png", file: str = "") -> Path:
    """One image, ``place``, with a box from 5, 6 to 25, 21."""
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": place, "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 15], "area": 300}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    change(document)
    write(root / (file or "annotations/instances_train.json"), json.dumps(document))
    some_image(root / "train" / place)
    return root


def run_length(as_text: bool) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[6:21, 5:25] = True
    runs = RunLengths.from_mask(mask)
    return runs.to_coco() if as_text else {"size": [HEIGHT, WIDTH], "counts": runs.counts.tolist()}


def of_annotation(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["annotations"][0].update(values)


def of_image(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["images"][0].update(values)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (of_annotation(bbox=None, segmentation=run_length(as_text=False)), "a.png"),
        (of_annotation(bbox=None, segmentation=run_length(as_text=True)), "a.png"),
        (of_annotation(bbox=[], segmentation=[[5, 6, 25, 6, 25, 21]]), "a.png"),
        (of_annotation(iscrowd="0"), "a.png"),
        (lambda document: document["categories"][0].update(name=7), "a.png"),
        (of_image(file_name="/data/upload/1/a.png"), "a.png"),
        (of_image(file_name="C:\\me\\pictures\\a.png"), "a.png"),
        (of_image(file_name="..\\..\\media\\upload\\1\\a.png"), "a.png"),
        (of_image(file_name=f"{COMPOSED}.png"), f"{DECOMPOSED}.png"),
        (of_image(file_name=f"x\\{DECOMPOSED}.png"), f"x/{COMPOSED}.png"),
    ],
)
def test_coco_as_others_write_it(tmp_path: Path, change: Callable[[dict[str, Any]], object], place: str) -> None:
    root = coco(tmp_path, change, place)
    assert boxes(root, "train") == {Path(place).name: [[5, 6, 25, 21]]}
    assert codes(root) == []


def test_two_names_of_other_machines_that_would_be_one_file(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["images"] = [{"id": number, "file_name": f"/{number}/a.png"} for number in (1, 2)]

    with pytest.raises(DatasetError, match=r"image 2: '/2/a.png' and '/1/a.png' would both be the file a.png"):
        open_dataset(coco(tmp_path, change), "train")


def test_an_export_of_roboflow_without_splits(tmp_path: Path) -> None:
    root = coco(tmp_path, lambda document: None, file="_annotations.coco.json")
    (root / "train/a.png").rename(root / "a.png")
    assert available_splits(root) == ("all",)
    assert boxes(root, "all") == {"a.png": [[5, 6, 25, 21]]}


# VOC


OBJECT = "<object><name>cat</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>21</ymax></bndbox></object>"
XML = f"<annotation>{OBJECT}</annotation>"
DECLARED = '<?xml version="1.0" encoding="{}"?>\n'
OUTLINE = "<polygon><x1>5</x1><y1>6</y1><x2>25</x2><y2>6</y2><x3>25</x3><y3>21</y3></polygon>"


@pytest.mark.parametrize(
    "text",
    [
        f"{DECLARED.format('utf-16')}{XML}",  # .NET: the text that it declares so, saved as UTF-8
        f"{DECLARED.format('utf-16')}{XML}".encode("utf-16"),
        f"\ufeff{DECLARED.format('gb2312')}{XML}",
        f"<annotation><object><name>cat</name>{OUTLINE}</object></annotation>",
    ],
)
def test_xml_as_others_write_it(tmp_path: Path, text: str | bytes) -> None:
    some_image(tmp_path / "JPEGImages/a.png")
    write(tmp_path / "Annotations/a.xml", text)
    assert boxes(tmp_path, "all") == {"a.png": [[5, 6, 25, 21]]}


@pytest.mark.parametrize(
    ("image", "annotation"),
    [("a.PNG", "a.XML"), ("x/a.png", "x/a.xml"), (f"{DECOMPOSED}.png", f"{COMPOSED}.xml")],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_no_annotation_of_voc_gets_lost(tmp_path: Path, image: str, annotation: str, is_listed: bool) -> None:
    for name in ("plain.png", image):
        some_image(tmp_path / "JPEGImages" / name)
    for name in ("plain.xml", annotation):
        write(tmp_path / "Annotations" / name, XML)
    if is_listed:
        write(tmp_path / "ImageSets/Main/all.txt", f"plain\n{annotation[:-4]}\n")
    assert boxes(tmp_path, "all") == {"plain.png": [[5, 6, 25, 21]], Path(image).name: [[5, 6, 25, 21]]}
    assert codes(tmp_path) == []


def test_a_rotated_box_is_named(tmp_path: Path) -> None:
    some_image(tmp_path / "JPEGImages/a.png")
    rotated = "<robndbox><cx>9</cx><cy>9</cy><w>4</w><h>4</h><angle>1</angle></robndbox>"
    write(tmp_path / "Annotations/a.xml", f"<annotation><object><name>cat</name>{rotated}</object></annotation>")
    with pytest.raises(DatasetError, match="an object without <bndbox>; <robndbox> is a rotated one"):
        open_dataset(tmp_path, "all")


# Masks


def masks(root: Path, pixels: np.ndarray[Any, Any], table: str = "", names: str = "classes.txt") -> Path:
    for split in ("train", "val"):
        some_image(root / split / "images/a.png")
        write_image(root / split / "masks/a.png", pixels)
    write(root / names, table or "ground\nroad\n")
    return root


def test_black_and_white_masks_of_two_named_classes(tmp_path: Path) -> None:
    """White is ignored unless it is named: nothing but the ground would be learned."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:9] = 255
    root = masks(tmp_path, pixels)
    told = "masks of train.* hold the values 0 and 255 alone, .* `names: {0: ground, 255: road}`"
    with pytest.warns(UserWarning, match=told):
        open_dataset(root, "train")
    (finding,) = check_dataset(root).by_code()["D310"]
    assert re.search(told, finding.message)
    write(root / "data.yaml", "format: masks\nnames: {0: ground, 255: road}\n")
    assert codes(root) == []
    (root / "data.yaml").unlink()
    pixels[20] = 1  # now it is a border between two classes that are there
    assert codes(masks(root, pixels)) == []


@pytest.mark.parametrize(
    "table",
    [
        "name,r,g,b\nground,0,0,0\nroad,200,0,10\n",
        "name;r;g;b\r\nground;0;0;0\r\nroad;200;0;10\r\n",
        'id, Class, Red, Green, Blue\n0, "ground", 0, 0, 0\n1, "road", 200, 0, 10\n',
        "name,b,g,r\nground,0,0,0\nroad,10,0,200\n",
    ],
)
def test_columns_of_a_table_of_colors(tmp_path: Path, table: str) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:9] = (200, 0, 10)
    root = masks(tmp_path, pixels, table, "class_dict.csv")
    dataset = open_dataset(root, "train")
    assert dataset.class_names == ("ground", "road")
    assert (dataset.load(0).mask == (np.arange(HEIGHT) < 9)[:, None]).all()


# What is no data set


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("https://example.org/set.zip", "is an address; download the data set"),
        ("set.zip", "unpack this archive, and name the folder"),
        ("packed", "there are archives, which are not looked into: unpack set.zip"),
        ("classes", r"images lie in folders \(cat, dog in train\), .* not one class for a whole image"),
        ("keras", "_annotations.txt is a list of boxes in Roboflow's form for Keras"),
    ],
)
def test_what_to_do_is_said(tmp_path: Path, name: str, advice: str) -> None:
    for place in ("set.zip", "packed/set.zip"):
        write(tmp_path / place, b"PK\5\6")
    for kind in ("cat", "dog"):
        some_image(tmp_path / f"classes/train/{kind}/a.png")
    write(tmp_path / "keras/train/_annotations.txt", "a.png 1,2,3,4,0\n")
    with pytest.raises(DatasetError, match=advice):
        open_dataset(name if "://" in name else tmp_path / name, "train")
