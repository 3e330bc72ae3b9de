"""Data sets as programs for annotation export them, and as operating systems leave them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image

HEIGHT, WIDTH = 48, 64


def some_image(path: Path, seed: int = 0) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def codes(root: Path) -> list[str]:
    return sorted(finding.code for finding in check_dataset(root).findings if finding.code != "D204")


def counts(root: Path, split: str) -> tuple[int, int]:
    """The images and the boxes of a split, which check and the reader see alike."""
    dataset = open_dataset(root, split)
    summary = check_dataset(root).splits[dataset.split]
    num_boxes = sum(len(dataset.ground_truth(index).labels) for index in range(len(dataset)))
    assert (summary.num_images, summary.num_boxes) == (len(dataset), num_boxes)
    return len(dataset), num_boxes


# COCO


def coco(root: Path, change: Callable[[dict[str, Any]], object] = lambda document: None) -> Path:
    """Two images with a box each, in a file that ``change`` has changed."""
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n, "bbox": [5, 5, 20, 15], "area": 300, "iscrowd": 0}
            for n in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    change(document)
    write(root / "annotations/instances_train.json", json.dumps(document))
    for number in (1, 2):
        some_image(root / f"train/{number}.png", number)
    return root


def set_all(table: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    """Give all entries of a table these values; ``...`` takes a key away."""

    def change(document: dict[str, Any]) -> None:
        for entry in document[table]:
            entry.update(values)
            for key in [key for key, value in entry.items() if value is ...]:
                del entry[key]

    return change


def as_text(document: dict[str, Any]) -> None:
    for table in ("images", "annotations", "categories"):
        for entry in document[table]:
            entry.update({key: str(value) for key, value in entry.items() if key == "id" or key.endswith("_id")})


POLYGON = [5, 5, 25, 5, 25, 20, 5, 20]


@pytest.mark.parametrize(
    "change",
    [
        set_all("annotations", iscrowd=None),
        set_all("annotations", iscrowd=...),
        set_all("annotations", iscrowd=False),
        set_all("annotations", area=None),
        set_all("annotations", segmentation=[]),
        set_all("annotations", segmentation={}),
        set_all("annotations", segmentation=None),
        set_all("annotations", segmentation=POLYGON),
        set_all("annotations", segmentation=[POLYGON], bbox=...),
        set_all("annotations", segmentation=[POLYGON], bbox=None),
        set_all("images", height=float(HEIGHT), width=float(WIDTH)),
        set_all("images", height=..., width=...),
        set_all("images", height=0, width=0),
        set_all("images", height=None, width=WIDTH),
        as_text,
    ],
)
def test_fields_that_boxes_do_not_need(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    root = coco(tmp_path, change)
    assert codes(root) == []
    dataset = open_dataset(root, "train")
    assert [dataset.ground_truth(index).boxes_xywh.tolist() for index in (0, 1)] == [[[5, 5, 20, 15]]] * 2
    assert [dataset.size(index) for index in (0, 1)] == [(HEIGHT, WIDTH)] * 2
    assert [dataset.ground_truth(index).areas.tolist() for index in (0, 1)] == [[300]] * 2


@pytest.mark.parametrize(
    "change",
    [
        set_all("annotations", segmentation=[[1, 2, 3]]),
        set_all("annotations", segmentation=[[1, 2, "3", 4]]),
        set_all("annotations", segmentation=[[1, 2, 3, float("nan")]]),
        set_all("annotations", segmentation=[[1, 2, 3, 1e8]]),
        set_all("annotations", segmentation={"counts": []}),
        set_all("annotations", area=-300),
        set_all("annotations", area=float("inf")),
        set_all("annotations", area="300"),
    ],
)
def test_fields_that_are_wrong_are_told_and_left_out(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    root = coco(tmp_path, change)
    assert codes(root) == ["D007", "D007"]
    dataset = open_dataset(root, "train")
    assert dataset.ground_truth(0).areas.tolist() == [300]
    assert dataset.segmentations(0) == [None]


def test_a_box_of_negative_size_is_neither_learned_from_nor_judged(tmp_path: Path) -> None:
    root = coco(tmp_path, lambda document: document["annotations"][0].update(bbox=[40, 30, -10, -5]))
    assert codes(root) == ["D001"]
    with pytest.warns(UserWarning, match="1 of the boxes of train are left out"):
        dataset = open_dataset(root, "train")
    assert len(dataset.ground_truth(0).labels) == 0


def test_the_group_that_roboflow_adds_is_left_out(tmp_path: Path) -> None:
    def with_group(document: dict[str, Any]) -> None:
        document["categories"] = [
            {"id": 0, "name": "cat", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "cat"},
            {"id": 2, "name": "dog", "supercategory": "cat"},
        ]

    root = coco(tmp_path, with_group)
    assert codes(root) == ["D008"]
    assert open_dataset(root, "train").class_names == ("cat", "dog")
    assert open_dataset(root, "train").category_ids == (1, 2)


def test_a_category_without_boxes_is_a_class(tmp_path: Path) -> None:
    root = coco(tmp_path, lambda doc: doc["categories"].append({"id": 0, "name": "ox", "supercategory": "none"}))
    assert open_dataset(root, "train").class_names == ("ox", "cat", "dog")


def test_file_names_from_windows(tmp_path: Path) -> None:
    root = coco(tmp_path, lambda doc: [one.update(file_name=f"sub\\{one['file_name']}") for one in doc["images"]])
    (root / "train").rename(root / "sub")
    assert counts(root, "train") == (2, 2)
    assert Path(open_dataset(root, "train").path(0)) == root / "sub/1.png"
    # A name may well hold a backslash.
    (root / "sub").rename(root / "train")
    for number in (1, 2):
        (root / f"train/{number}.png").rename(root / "train" / f"sub\\{number}.png")
    assert Path(open_dataset(root, "train").path(0)).name == "sub\\1.png"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_all("categories", name="\ud800"), "D005"),
        (set_all("images", file_name="\ud800.png"), "D005"),
        (set_all("images", file_name="x" * 5000), "D101"),
        (set_all("images", height=10**400), "D005"),
    ],
)
def test_names_that_nothing_can_have(tmp_path: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    root = coco(tmp_path, change)
    report = check_dataset(root)
    assert expected in report.by_code()
    report.write_json(tmp_path.parent / f"{tmp_path.name}.json")
    with pytest.raises(DatasetError):
        open_dataset(root, "train")


def turn(path: Path, orientation: int) -> None:
    """Give a JPEG an Exif orientation."""
    block = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])


@pytest.mark.parametrize(("bottom", "advice"), [(62, "write 48 and 64"), (40, "annotate the upright image")])
def test_boxes_say_whether_they_are_those_of_the_upright_image(tmp_path: Path, bottom: int, advice: str) -> None:
    root = coco(tmp_path, set_all("annotations", bbox=[5, bottom - 20, 20, 20]))
    for number in (1, 2):
        (root / f"train/{number}.png").unlink()
        some_image(root / f"train/{number}.jpg", number)
        turn(root / f"train/{number}.jpg", 6)
    path = root / "annotations/instances_train.json"
    path.write_text(path.read_text().replace(".png", ".jpg"))
    findings = check_dataset(root).findings
    assert [finding.code for finding in findings] == ["D103", "D103"]
    assert advice in findings[0].message


# YOLO

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
BOX = "0 0.5 0.5 0.25 0.5\n"


def yolo(root: Path, **files: str) -> Path:
    write(root / "data.yaml", YAML)
    for name in ("train/a", "train/b", "val/c"):
        some_image(root / f"images/{name}.png", ord(name[-1]))
        write(root / f"labels/{name}.txt", BOX)
    return root


@pytest.mark.parametrize(
    "line",
    [
        b"\xef\xbb\xbf" + BOX.encode(),
        BOX.replace("\n", "\r\n").encode(),
        BOX.encode().rstrip(),
        b"\n \n" + BOX.encode(),
    ],
)
def test_text_as_other_systems_write_it(tmp_path: Path, line: bytes) -> None:
    root = yolo(tmp_path)
    write(root / "labels/train/a.txt", line)
    assert codes(root) == []
    assert counts(root, "train") == (2, 2)
    split_dataset(root, "1:1", 0, tmp_path.parent / f"{tmp_path.name}-new")


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    for name in ("images/train/._a.png", "images/.trash/x.png", "labels/train/._a.txt", "images/train/.DS_Store"):
        write(root / name, b"\0\5\x16\7")
    assert codes(root) == []
    assert counts(root, "train") == (2, 2)


def test_only_folders_in_the_data_set_are_told_apart_by_name(tmp_path: Path) -> None:
    root = tmp_path / "images/project"
    write(root / "data.yaml", YAML.replace("images/", "photos/"))
    for name in ("train/a", "val/c"):
        some_image(root / f"photos/{name}.png", ord(name[-1]))
        write(root / f"photos/{name}.txt", BOX)
    assert codes(root) == []
    assert counts(root, "train") == (1, 1)


def test_labels_beside_images_count_where_there_are_no_others(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    some_image(root / "images/train/d.png", 9)
    write(root / "images/train/d.txt", BOX * 2)
    assert counts(root, "train") == (3, 4)
    write(root / "labels/train/d.txt", "")
    assert counts(root, "train") == (3, 2)


def test_two_images_with_one_label_file_are_told(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    some_image(root / "images/train/a.jpg", 8)
    (finding,) = check_dataset(root).by_code()["D106"]
    assert finding.file == "labels/train/a.txt"
    assert "2 images of this name" in finding.message


def test_a_test_split_may_be_without_labels_and_is_never_background(tmp_path: Path) -> None:
    root = yolo(tmp_path / "data")
    write(root / "data.yaml", YAML + "test: images/test\n")
    for number in range(3):
        some_image(root / f"images/test/{number}.png", 100 + number)
    assert codes(root) == ["D308"]
    with pytest.warns(UserWarning, match="can be predicted, not judged"):
        assert len(open_dataset(root, "test")) == 3
    result = split_dataset(root, "2:1", 0, tmp_path / "new")
    assert {name: summary.num_images for name, summary in result.splits.items()} == {"train": 2, "val": 1}
    (root / "labels/val/c.txt").unlink()
    with pytest.raises(DatasetError, match="none of 1 images of val has a label file"):
        open_dataset(root, "val")


@pytest.mark.parametrize("key", ["valid", "validation"])
def test_other_words_for_val(tmp_path: Path, key: str) -> None:
    root = yolo(tmp_path)
    write(root / "data.yaml", YAML.replace("val: images/val", f"{key}: images/val"))
    assert available_splits(root) == ("train", key)
    assert counts(root, "val") == (1, 1)


@pytest.mark.parametrize("names", ["{'0': cat, '1': dog}", "{0: cat, 1: dog}\nnc: '2'", "{0: cat, 1: dog}\nnc: 2"])
def test_numbers_as_text(tmp_path: Path, names: str) -> None:
    root = yolo(tmp_path)
    write(root / "data.yaml", YAML.replace("[cat, dog]", names))
    assert open_dataset(root, "train").class_names == ("cat", "dog")


def test_key_points_behind_a_box_are_passed_over_where_the_yaml_says_so(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    pose = BOX.strip() + " 0.4 0.4 2 0.6 0.6 1\n"
    write(root / "labels/train/a.txt", pose)
    with pytest.raises(DatasetError, match=r"say kpt_shape: \[2, 3\]"):
        open_dataset(root, "train")
    write(root / "labels/train/a.txt", pose.replace(" 2 ", " 0 ").strip() + " 0.1\n")
    with pytest.raises(DatasetError, match="say kpt_shape in the YAML"):
        open_dataset(root, "train")
    write(root / "labels/train/a.txt", pose)
    write(root / "data.yaml", YAML + "kpt_shape: [2, 3]\n")
    assert counts(root, "train") == (2, 2)


def undivided_folders(root: Path, number: int) -> tuple[Path, Path]:
    return root / f"images/{number}.png", root / f"labels/{number}.txt"


def undivided_beside(root: Path, number: int) -> tuple[Path, Path]:
    return root / f"{number}.png", root / f"{number}.txt"


@pytest.mark.parametrize("place", [undivided_folders, undivided_beside])
@pytest.mark.parametrize("class_file", ["classes.txt", "obj.names"])
def test_yolo_exports_that_nobody_has_divided(
    tmp_path: Path, place: Callable[[Path, int], tuple[Path, Path]], class_file: str
) -> None:
    """As Label Studio and LabelImg export them."""
    root = tmp_path / "data"
    for number in range(4):
        file, labels = place(root, number)
        some_image(file, number)
        write(labels, BOX)
    write(root / class_file, "cat\n")
    assert codes(root) == []
    with pytest.raises(DatasetError, match=r"no split 'train'; there is all; `detseg split .*` divides it"):
        open_dataset(root, "train")
    result = split_dataset(root, "1:1", 0, tmp_path / "new")
    assert counts(result.yaml_path, "train") == (2, 2)


# VOC


def xml(name: str = "cat", encoding: str = "utf-8") -> bytes:
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>20</ymax></bndbox>"
    text = f"<annotation><object><name>{name}</name>{box}</object></annotation>"
    return f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding)


def voc(root: Path, annotations: str = "Annotations", images: str = "JPEGImages", encoding: str = "utf-8") -> Path:
    for number in range(4):
        some_image(root / images / f"{number}.png", number)
        write(root / annotations / f"{number}.xml", xml("\u4e2d", encoding))
    return root


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "shift_jis", "euc-kr", "utf-8", "utf-16"])
def test_encodings_of_annotations(tmp_path: Path, encoding: str) -> None:
    root = voc(tmp_path / "data", encoding=encoding)
    assert codes(root) == []
    assert open_dataset(root, "all").class_names == ("\u4e2d",)


def test_an_encoding_that_is_not_the_one_declared(tmp_path: Path) -> None:
    root = voc(tmp_path)
    wrong = xml("\u4e2d", "utf-8").replace(b"utf-8", b"gb2312", 1).replace(b"\xe4", b"\xff")
    write(root / "Annotations/0.xml", wrong)
    assert "D100" in codes(root)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("Annotations", "JPEGImages"), ("Annotations", "images"), ("annotations", "images"), ("", "")],
)
def test_voc_exports_that_nobody_has_divided(tmp_path: Path, annotations: str, images: str) -> None:
    """As CVAT and LabelImg export them."""
    root = voc(tmp_path / "data", annotations, images)
    write(root / annotations / "._0.xml", b"\0\5")
    assert codes(root) == []
    assert available_splits(root) == ("all",)
    result = split_dataset(root, "1:1", 0, tmp_path / "new")
    assert counts(result.yaml_path, "train") == (2, 2)
    assert check_dataset(result.yaml_path).findings == ()


def test_lists_with_the_files_of_images(tmp_path: Path) -> None:
    root = voc(tmp_path)
    write(root / "ImageSets/Main/train.txt", "0.png\n1\n2.jpg\n")
    write(root / "ImageSets/Main/val.txt", "3.PNG\n")
    assert codes(root) == []
    assert counts(root, "train") == (3, 3)


# Masks

COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[10:20, 10:30] = 1
LABELS[30:40, 5:15] = 2


def save_mask(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masks(
    root: Path, pixels: Any, mask_name: str = "SPLIT/masks/NAME.png", image_name: str = "SPLIT/images/NAME.png"
) -> Path:
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            some_image(root / image_name.replace("SPLIT", split).replace("NAME", name), ord(name))
            save_mask(root / mask_name.replace("SPLIT", split).replace("NAME", name), pixels)
    write(root / "classes.txt", "ground\nroad\ncar\n")
    return root


def opaque(colors: Any) -> Any:
    return np.dstack([colors, np.full((HEIGHT, WIDTH), 255, np.uint8)])


@pytest.mark.parametrize(
    "pixels",
    [LABELS, LABELS.astype(np.uint16), np.dstack([LABELS] * 3), opaque(np.dstack([LABELS] * 3)), opaque(LABELS)],
)
def test_masks_that_hold_no_more_than_8_bits(tmp_path: Path, pixels: Any) -> None:
    root = masks(tmp_path, pixels)
    assert codes(root) == []
    assert (open_dataset(root, "train").load(0).mask == LABELS).all()


def test_an_alpha_channel_that_hides_nothing(tmp_path: Path) -> None:
    root = masks(tmp_path, opaque(COLORS[LABELS]))
    write(root / "data.yaml", f"format: masks\nnames: [ground, road, car]\ncolors: {COLORS.tolist()}\n")
    assert codes(root) == []
    assert (open_dataset(root, "train").load(0).mask == LABELS).all()
    see_through = opaque(COLORS[LABELS])
    see_through[0, 0, 3] = 254
    save_mask(root / "val/masks/c.png", see_through)
    assert "D303" in codes(root)


@pytest.mark.parametrize(
    ("mask_name", "image_name"),
    [
        ("SPLIT/masks/town/NAME.png", "SPLIT/images/town/NAME.png"),
        ("SPLIT/masks/NAME_mask.png", "SPLIT/images/NAME.png"),
        ("masks/SPLIT/NAME_L.png", "images/SPLIT/NAME.jpg"),
        ("SPLIT/masks/town/gt_NAME.png", "SPLIT/images/town/NAME.png"),
        ("SPLIT/labels/NAME.png", "SPLIT/images/NAME.png"),
        ("labels/SPLIT/NAME.png", "images/SPLIT/NAME.jpg"),
        ("annotations/SPLIT/NAME.png", "images/SPLIT/NAME.jpg"),
    ],
)
def test_where_masks_may_lie(tmp_path: Path, mask_name: str, image_name: str) -> None:
    root = masks(tmp_path / "data", LABELS, mask_name, image_name)
    assert codes(root) == []
    assert (open_dataset(root, "val").load(0).mask == LABELS).all()
    result = split_dataset(root, "2:1", 0, tmp_path / "new")
    assert codes(result.yaml_path) == []


def test_the_lists_of_voc(tmp_path: Path) -> None:
    root = tmp_path
    for number in range(3):
        some_image(root / f"JPEGImages/{number}.jpg", number)
        save_mask(root / f"SegmentationClass/{number}.png", LABELS)
    write(root / "ImageSets/Segmentation/train.txt", "0\n1\n")
    write(root / "ImageSets/Segmentation/val.txt", "2\n")
    write(root / "classes.txt", "ground\nroad\ncar\n")
    assert codes(root) == []
    assert len(open_dataset(root, "train")) == 2


def test_a_suffix_that_is_stated(tmp_path: Path) -> None:
    root = masks(tmp_path, LABELS, "SPLIT/masks/NAME_fine.png")
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        save_mask(root / f"{split}/masks/{name}_coarse.png", LABELS // 2)
    write(root / "data.yaml", "format: masks\nnames: [ground, road, car]\nmask_suffix: _fine\n")
    assert (open_dataset(root, "val").load(0).mask == LABELS).all()
    write(root / "data.yaml", "format: masks\nnames: [ground, road, car]\nmask_suffix: 3\n")
    with pytest.raises(DatasetError, match="mask_suffix: expected a text such as _mask, got 3"):
        open_dataset(root, "val")


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    root = masks(tmp_path, LABELS.astype(bool).astype(np.uint8) * 255)
    (root / "classes.txt").unlink()
    (finding,) = check_dataset(root).findings
    assert finding.code == "D307"
    assert "names: {0: background, 255: NAME}; or" in finding.message
    with pytest.raises(DatasetError, match=r"names: \{0: background, 255: NAME\}"):
        open_dataset(root, "train")
    write(root / "data.yaml", "format: masks\nnames: {0: background, 255: NAME}\n")
    assert codes(root) == []
    assert (open_dataset(root, "train").load(0).mask == (LABELS > 0)).all()
    write(root / "data.yaml", "format: masks\nnames: {0: NAME}\nignore_index: 255\n")
    assert codes(root) == ["D310"]


def test_masks_with_loss_are_told_apart_from_missing_ones(tmp_path: Path) -> None:
    root = masks(tmp_path, LABELS, "SPLIT/masks/NAME.jpg")
    write(root / "data.yaml", "format: masks\nnames: [ground, road, car]\n")
    messages = [one.message for one in check_dataset(root).by_code()["D301"]]
    assert "a.jpg is no mask: JPEG and the like change values" in messages[0]
    with pytest.raises(DatasetError, match=r"c\.jpg is no mask"):
        open_dataset(root, "val")


SMOOTH = {"ksize": (5, 5), "sigmaX": 0}


def test_smoothed_edges_are_recognized_and_a_tolerance_is_proposed(tmp_path: Path) -> None:
    smoothed = cv2.GaussianBlur(COLORS[LABELS], **SMOOTH)
    root = masks(tmp_path / "set", smoothed)
    described = f"format: masks\nnames: [ground, road, car]\ncolors: {COLORS.tolist()}\n"
    write(root / "data.yaml", described)
    (finding, *_) = check_dataset(root).by_code()["D304"]
    assert "those of smoothed edges" in finding.message
    needed = int(finding.message.partition("`tolerance: ")[2].partition("`")[0])
    assert 100 < needed < 128, "in the middle between black and a color"
    write(root / "data.yaml", f"{described}tolerance: {needed - 1}\n")
    assert codes(root) == ["D304"] * 3 + ["D312"] * 2
    write(root / "data.yaml", f"{described}tolerance: {needed}\n")
    report = check_dataset(root)
    assert [(one.code, one.split) for one in report.findings] == [("D312", "train"), ("D312", "val")]
    num_between = int((smoothed != COLORS[LABELS]).any(axis=2).sum())
    assert report.findings[1].message == (
        f"{num_between:,} of 3,072 pixels ({num_between / 3072:.2%}) have none of the colors and count as the nearest, "
        f"at most {needed} away in a channel"
    )
    with pytest.warns(UserWarning, match=rf"masks of val are smoothed: {num_between} of 3,072 .* \(1 of 1 were read"):
        dataset = open_dataset(root, "val")
    found = dataset.load(0).mask
    assert found is not None
    distances = np.linalg.norm(smoothed[:, :, None].astype(float) - COLORS, axis=3)
    assert (found == distances.argmin(axis=2)).all()
    new = split_dataset(root, "2:1", 0, tmp_path / "new").yaml_path
    assert set(codes(new)) == {"D312"}


def test_smoothed_black_and_white_masks_are_divided(tmp_path: Path) -> None:
    smoothed = cv2.GaussianBlur((LABELS > 0).astype(np.uint8) * 255, **SMOOTH)
    root = masks(tmp_path / "set", smoothed)
    (root / "classes.txt").unlink()
    (finding,) = check_dataset(root).findings
    assert finding.code == "D307"
    assert "names: {0: background, 255: NAME}; threshold: 128; or" in finding.message
    assert "taken for ignored" not in finding.message
    with pytest.raises(DatasetError, match=r"names: \{0: background, 255: NAME\}\n  threshold: 128\n"):
        open_dataset(root, "val")
    write(root / "data.yaml", "format: masks\nnames: {0: background, 255: NAME}\n")
    (finding, *_) = check_dataset(root).by_code()["D304"]
    assert "or divide them, `threshold: 128` in the YAML" in finding.message
    for names, level in (("{0: background, 255: NAME}", 128), ("[background, NAME]", 30)):
        write(root / "data.yaml", f"format: masks\nnames: {names}\nthreshold: {level}\n")
        with pytest.warns(UserWarning, match=rf"neither 0 nor 255: from {level} on they count as NAME \(2 of 2"):
            dataset = open_dataset(root, "train")
        assert (dataset.load(0).mask == (smoothed >= level)).all()
        assert dataset.category_ids == ((0, 255) if level == 128 else (0, 1))
        assert codes(root) == ["D312"] * 2
        report = check_dataset(root).splits["val"]
        assert report.num_pixels_by_class["NAME"] == (smoothed >= level).sum()
    result = split_dataset(root, "2:1", 0, tmp_path / "new")
    assert set(codes(result.yaml_path)) == {"D312"}


def test_masks_without_smoothing_are_the_same_with_a_tolerance(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    root = masks(tmp_path, COLORS[LABELS])
    write(root / "data.yaml", f"format: masks\nnames: [ground, road, car]\ncolors: {COLORS.tolist()}\ntolerance: 255\n")
    assert codes(root) == []
    assert (open_dataset(root, "train").load(0).mask == LABELS).all()
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("names: [a, b, c]\ntolerance: 20\n", "tolerance: is for masks with `colors:`"),
        (f"names: [a, b, c]\ncolors: {COLORS.tolist()}\ntolerance: 256\n", "an integer from 0 to 255; .* got 256"),
        (f"names: [a, b, c]\ncolors: {COLORS.tolist()}\nthreshold: 9\n", "with colors, say tolerance"),
        ("names: [a, b, c]\nthreshold: 128\n", "expected an integer from 1 to 255, .* got 128 for 3 names"),
        ("names: [a, b]\nthreshold: 0\n", "got 0 for 2 names"),
        ("names: [a, b]\nthreshold: 128\nignore_index: 7\n", "got 128 for 2 names and ignore_index"),
    ],
)
def test_smoothing_that_cannot_be_meant(tmp_path: Path, settings: str, message: str) -> None:
    root = masks(tmp_path, LABELS)
    write(root / "data.yaml", f"format: masks\n{settings}")
    with pytest.raises(DatasetError, match=message):
        open_dataset(root, "train")
