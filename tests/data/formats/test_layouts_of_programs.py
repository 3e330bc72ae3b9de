"""Layouts in which CVAT, Label Studio, Roboflow and others export, and what is said of those that are not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image

HEIGHT, WIDTH = 48, 64
BOX = [20, 12, 24, 20]
LINE = "0 0.5 0.4583333333333333 0.375 0.4166666666666667\n"
XML = (
    "<annotation><filename>NAME.jpg</filename><size><width>64</width><height>48</height></size><object><name>cat</name>"
    "<bndbox><xmin>20</xmin><ymin>12</ymin><xmax>44</xmax><ymax>32</ymax></bndbox></object></annotation>"
)
COLORS = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[12:32, 20:44] = 1


def some_image(path: Path) -> None:
    seed = sum(map(ord, path.stem))
    write_image(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco(names: list[str]) -> str:
    numbered = list(enumerate(names, 1))
    return json.dumps(
        {
            "images": [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in numbered],
            "annotations": [{"id": n, "image_id": n, "category_id": 0, "bbox": BOX, "area": 480} for n, _ in numbered],
            "categories": [{"id": 0, "name": "cat"}],
        }
    )


def cvat_yolo(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"obj_train_data/{name}.jpg")
        write(root / f"obj_train_data/{name}.txt", LINE)
    write(root / "obj.names", "cat\n")
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in "abcd"))


def cvat_ultralytics(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"images/train/{name}.jpg")
        write(root / f"labels/train/{name}.txt", LINE)
    write(root / "train.txt", "".join(f"data/images/train/{name}.jpg\n" for name in "abcd"))
    write(root / "data.yaml", "names:\n  0: cat\npath: .\ntrain: train.txt\n")


def label_studio_coco(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"images/{name}.jpg")
    write(root / "result.json", coco([f"images\\{name}.jpg" for name in "abcd"]))


def label_studio_coco_with_bare_names(root: Path) -> None:
    label_studio_coco(root)
    write(root / "result.json", coco([f"{name}.jpg" for name in "abcd"]))


def roboflow_voc(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"train/{name}.jpg")
        write(root / f"train/{name}.xml", XML.replace("NAME", name))


def yolo_by_split(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"train/images/{name}.jpg")
        write(root / f"train/labels/{name}.txt", LINE)
    write(root / "classes.txt", "cat\n")


@pytest.mark.parametrize(
    ("make", "split"),
    [
        (cvat_yolo, "all"),
        (cvat_ultralytics, "train"),
        (label_studio_coco, "all"),
        (label_studio_coco_with_bare_names, "all"),
        (roboflow_voc, "train"),
        (yolo_by_split, "train"),
    ],
)
def test_boxes(tmp_path: Path, make: Callable[[Path], None], split: str) -> None:
    root = tmp_path / "data"
    make(root)
    assert available_splits(root) == (split,)
    assert check_dataset(root).findings == ()
    dataset = open_dataset(root, split)
    assert (len(dataset), dataset.class_names) == (4, ("cat",))
    for index in range(4):
        assert dataset.load(index).boxes_xyxy.tolist() == [[20, 12, 44, 32]]
    new = split_dataset(root, "5:5", 0, tmp_path / "new").yaml_path
    assert [len(open_dataset(new, name)) for name in ("train", "val")] == [2, 2]
    assert open_dataset(new, "val").load(1).boxes_xyxy.tolist() == [[20, 12, 44, 32]]


def test_the_classes_of_voc_are_those_of_all_splits(tmp_path: Path) -> None:
    roboflow_voc(tmp_path)
    some_image(tmp_path / "valid/e.jpg")
    write(tmp_path / "valid/e.xml", XML.replace("NAME", "e").replace("cat", "bird"))
    assert open_dataset(tmp_path, "val").class_names == open_dataset(tmp_path, "train").class_names == ("bird", "cat")


@pytest.mark.parametrize(
    ("mask_name", "table", "content"),
    [
        (
            "SegmentationClass/NAME.png",
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat: tame:128,0,0::\n",
        ),
        ("train_labels/NAME_L.png", "class_dict.csv", "name,r,g,b\nbackground, 0, 0, 0\ncat: tame,128,0,0\n"),
        ("trainannot/NAME.png", "class_dict.csv", "background,0,0,0\ncat: tame,128,0,0\n"),
    ],
)
def test_masks_with_a_table_of_colors(tmp_path: Path, mask_name: str, table: str, content: str) -> None:
    root, is_voc = tmp_path / "data", mask_name.startswith("Seg")
    for name in "abcd":
        some_image(root / ("JPEGImages" if is_voc else "train") / f"{name}.jpg")
        save(root / mask_name.replace("NAME", name), COLORS[LABELS])
    if is_voc:
        write(root / "ImageSets/Segmentation/train.txt", "a\nb\nc\nd\n")
    write(root / table, content)
    assert check_dataset(root).findings == ()
    dataset = open_dataset(root, "train")
    assert dataset.class_names == ("background", "cat: tame")
    assert all((dataset.load(index).mask == LABELS).all() for index in range(4))
    new = split_dataset(root, "5:5", 0, tmp_path / "new").yaml_path
    assert (open_dataset(new, "val").load(0).mask == LABELS).all()
    write(root / table, content.replace("128", "red"))
    with pytest.raises(DatasetError, match=r"expected a name and red, green and blue from 0 to 255, got .*red"):
        open_dataset(root, "train")


def inner_folder(root: Path) -> None:
    yolo_by_split(root / "project")
    write(root / "__MACOSX/project/._a.jpg", "x")


def roboflow_masks(root: Path) -> None:
    some_image(root / "train/a.jpg")
    save(root / "train/a_mask.png", LABELS)


def capital_letters(root: Path) -> None:
    some_image(root / "Images/train/a.jpg")
    write(root / "Labels/train/a.txt", LINE)


def named_otherwise(root: Path) -> None:
    some_image(root / "val/a.jpg")
    write(root / "annotations/val.json", coco(["a.jpg"]))


def without_names(root: Path) -> None:
    some_image(root / "images/a.jpg")
    write(root / "labels/a.txt", LINE)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (inner_folder, r"a data set is inside of it, name that: .*/project \(yolo\);"),
        (
            roboflow_masks,
            "masks such as a_mask.png lie beside images in .*/train: put masks into a folder of their own",
        ),
        (capital_letters, "rename Images to images, Labels to labels;"),
        (
            named_otherwise,
            r"write a YAML .*:\n    format: coco\n    path: .*\n    val: {images: val, annotations: anno",
        ),
        (without_names, "nobody says what the classes are called: add classes.txt"),
    ],
)
def test_what_is_not_read_is_told_apart(tmp_path: Path, make: Callable[[Path], None], advice: str) -> None:
    make(tmp_path)
    for look in (check_dataset, available_splits):
        with pytest.raises(DatasetError, match=f"(?s)no data set in a known layout; .*{advice}"):
            look(tmp_path)


def test_the_yaml_that_is_proposed_is_read(tmp_path: Path) -> None:
    named_otherwise(tmp_path)
    with pytest.raises(DatasetError) as caught:
        check_dataset(tmp_path)
    proposed = str(caught.value).partition("data set:\n")[2].partition(";")[0]
    write(tmp_path / "my.yaml", proposed)
    assert len(open_dataset(tmp_path / "my.yaml", "val")) == 1


def test_of_what_resembles_nothing_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "nothing")
    with pytest.raises(DatasetError, match="no data set in a known layout; looked for"):
        check_dataset(tmp_path)
