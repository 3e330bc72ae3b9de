"""``check_dataset`` on data sets that are broken in one known way each, on garbage, and on real ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.data.check import check_dataset
from detseg.data.checks.report import CheckReport
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image

HEIGHT, WIDTH = 48, 64
COCO_TRAIN = "annotations/instances_train.json"
COCO_VAL = "annotations/instances_val.json"

Expected = list[tuple[str, str, tuple[int, ...]]]
Break = Callable[[Path], None]


def write_noise(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_orientation(path: Path, orientation: int) -> None:
    """Rewrite a JPEG with an Exif block (TIFF, big endian, one entry: tag 274, SHORT) behind its first marker."""
    block = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])


def found(report: CheckReport) -> Expected:
    return [(finding.code, finding.file, finding.annotation_ids) for finding in report.findings]


def assert_readable_if_without_errors(root: Path, report: CheckReport) -> None:
    if report.num_findings("error"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for split in available_splits(root):
            dataset = open_dataset(root, split)
            for index in range(len(dataset)):
                dataset.load(index)


# COCO: images 1 and 2 in train, 3 in val; annotation 11 is the cat in image 1, 12 the dog, and so on.


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        document: dict[str, Any] = {"categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
        document["images"] = [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in numbers
        ]
        document["annotations"] = [
            {"id": number * 10 + position, "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
            for number in numbers
            for position, category, box in ((1, 3, [5, 6, 20, 10]), (2, 7, [30, 8, 15, 25]))
        ]
        for number in numbers:
            write_noise(root / split / f"{number}.png", number)
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def edit(change: Callable[[dict[str, Any]], object], file: str = COCO_TRAIN) -> Break:
    def apply(root: Path) -> None:
        document = json.loads((root / file).read_text())
        change(document)
        (root / file).write_text(json.dumps(document))

    return apply


def annotation(document: dict[str, Any], identifier: int) -> dict[str, Any]:
    return next(one for one in document["annotations"] if one["id"] == identifier)


def change_annotation(identifier: int, file: str = COCO_TRAIN, **values: Any) -> Break:
    return edit(lambda document: annotation(document, identifier).update(values), file)


def add_annotation(copied: int, file: str = COCO_TRAIN, **values: Any) -> Break:
    return edit(lambda doc: doc["annotations"].append({**annotation(doc, copied), **values}), file)


def change_image(position: int, **values: Any) -> Break:
    return edit(lambda document: document["images"][position].update(values))


COCO_CASES: dict[str, tuple[Break, Expected, int]] = {
    "nothing": (lambda root: None, [], 0),
    "zero width": (change_annotation(11, bbox=[5, 6, 0, 10]), [("D001", COCO_TRAIN, (11,))], 1),
    "negative height": (change_annotation(12, bbox=[5, 6, 10, -1]), [("D001", COCO_TRAIN, (12,))], 1),
    "half a pixel inside": (change_annotation(12, bbox=[-3, 6, 3.5, 10]), [("D001", COCO_TRAIN, (12,))], 1),
    "past the right border": (change_annotation(12, bbox=[60, 5, 10, 10]), [("D002", COCO_TRAIN, (12,))], 1),
    "past the top border": (change_annotation(12, bbox=[20, -2, 10, 10]), [("D002", COCO_TRAIN, (12,))], 1),
    "past by rounding": (change_annotation(12, bbox=[54, 5, 10.4, 10]), [], 0),
    "entirely outside": (change_annotation(12, bbox=[64, 0, 5, 5]), [("D006", COCO_TRAIN, (12,))], 2),
    "duplicate": (add_annotation(11, id=13), [("D003", COCO_TRAIN, (11, 13))], 1),
    "equal box of another class": (add_annotation(11, id=13, category_id=7), [], 0),
    "crowd region like an object": (add_annotation(11, id=13, iscrowd=1), [], 0),
    "unknown category": (change_annotation(12, category_id=5), [("D004", COCO_TRAIN, (12,))], 2),
    "category of another type": (change_annotation(12, category_id=[7]), [("D004", COCO_TRAIN, (12,))], 2),
    "three numbers": (change_annotation(12, bbox=[1, 2, 3]), [("D005", COCO_TRAIN, (12,))], 2),
    "not a number": (change_annotation(12, bbox=[1, 2, float("nan"), 4]), [("D005", COCO_TRAIN, (12,))], 2),
    "a gigantic integer": (change_annotation(12, bbox=[1, 2, 10**400, 4]), [("D005", COCO_TRAIN, (12,))], 2),
    "no box": (change_annotation(12, bbox=None), [("D005", COCO_TRAIN, (12,))], 2),
    "odd polygon": (change_annotation(12, segmentation=[[1, 2, 3]]), [("D007", COCO_TRAIN, (12,))], 1),
    "crowd of two": (change_annotation(12, iscrowd=2), [("D005", COCO_TRAIN, (12,))], 2),
    "area is text": (change_annotation(12, area="12"), [("D007", COCO_TRAIN, (12,))], 1),
    "area is negative": (change_annotation(12, area=-12), [("D007", COCO_TRAIN, (12,))], 1),
    "image id of no image": (change_annotation(12, image_id=99), [("D005", COCO_TRAIN, (12,))], 2),
    "an entry that is no object": (edit(lambda doc: doc["annotations"].append(7)), [("D005", COCO_TRAIN, ())], 2),
    "annotation id twice": (add_annotation(12, id=11, bbox=[1, 1, 9, 9]), [("D106", COCO_TRAIN, (11,))], 2),
    "image id twice": (
        change_image(1, id=1),
        [
            ("D005", COCO_TRAIN, (21,)),
            ("D005", COCO_TRAIN, (22,)),
            ("D105", "train/2.png", ()),
            ("D106", COCO_TRAIN, ()),
        ],
        2,
    ),
    "image listed twice": (
        change_image(1, file_name="1.png"),
        [("D105", "train/2.png", ()), ("D106", "train/1.png", ())],
        2,
    ),
    "missing image": (lambda root: (root / "train/1.png").unlink(), [("D101", "train/1.png", ())], 2),
    "truncated image": (lambda root: cut_in_half(root / "train/1.png"), [("D102", "train/1.png", ())], 2),
    "text as image": (
        lambda root: (root / "val/3.png").write_text("not an image"),
        [("D102", "val/3.png", ())],
        2,
    ),
    "another height": (change_image(0, height=40), [("D103", "train/1.png", (11, 12))], 2),
    "height is text": (change_image(0, height="48"), [("D005", COCO_TRAIN, ())], 2),
    "without objects": (
        edit(lambda doc: doc.update(annotations=doc["annotations"][:2])),
        [("D104", "train/2.png", ())],
        0,
    ),
    "unlisted image": (lambda root: write_noise(root / "val/9.png", 9), [("D105", "val/9.png", ())], 0),
    "path outside": (
        change_image(0, file_name="../val/3.png"),
        [("D105", "train/1.png", ()), ("D107", COCO_TRAIN, ())],
        2,
    ),
    "same image in two splits": (
        lambda root: shutil.copy(root / "train/1.png", root / "val/3.png"),
        [("D201", "train/1.png", ())],
        2,
    ),
    "same image twice in a split": (
        lambda root: shutil.copy(root / "train/1.png", root / "train/2.png"),
        [("D203", "train/1.png", ())],
        1,
    ),
    "no dog in val": (change_annotation(32, COCO_VAL, category_id=3), [("D202", "", ())], 1),
    "two classes of one name": (
        edit(lambda doc: doc["categories"].append({"id": 9, "name": "cat"})),
        [("D005", COCO_TRAIN, ())],
        2,
    ),
    "file cut off": (lambda root: cut_in_half(root / COCO_TRAIN), [("D100", COCO_TRAIN, ())], 2),
    "file is a list": (
        lambda root: (root / COCO_TRAIN).write_text("[]"),
        [("D100", COCO_TRAIN, ())],
        2,
    ),
    "nested a million times": (
        lambda root: (root / COCO_TRAIN).write_text("[" * 10**6),
        [("D100", COCO_TRAIN, ())],
        2,
    ),
    "a number of 5000 digits": (
        lambda root: (root / COCO_TRAIN).write_text(f'{{"images": {"9" * 5000}}}'),
        [("D100", COCO_TRAIN, ())],
        2,
    ),
}


@pytest.mark.parametrize("case", COCO_CASES)
def test_coco(coco: Path, case: str) -> None:
    break_it, expected, exit_code = COCO_CASES[case]
    break_it(coco)
    report = check_dataset(coco)
    assert found(report) == [(code, file or str(coco), ids) for code, file, ids in expected]
    assert report.exit_code == exit_code
    assert_readable_if_without_errors(coco, report)


def test_position_of_a_syntax_error_is_named(coco: Path) -> None:
    (coco / COCO_TRAIN).write_text('{"images": [],\n  "annotations": [1, 2,, 3]}')
    (finding,) = (one for one in check_dataset(coco).findings if one.code == "D100")
    assert "line 2, column 24" in finding.message


@pytest.mark.parametrize(
    ("orientation", "height", "width", "wanted"),
    [
        (6, HEIGHT, WIDTH, "its EXIF orientation 6 turns the image"),
        (8, HEIGHT, WIDTH, "its EXIF orientation 8 turns the image"),
        (6, WIDTH, HEIGHT, None),
        (3, HEIGHT, WIDTH, None),
        (3, WIDTH, HEIGHT, "no EXIF orientation of the file explains it"),
        (1, WIDTH, HEIGHT, "no EXIF orientation of the file explains it"),
        (6, 50, 50, "the image is 48x64, the annotation is for 50x50"),
    ],
)
def test_exif(coco: Path, orientation: int, height: int, width: int, wanted: str | None) -> None:
    write_noise(coco / "train" / "1.jpg", 1)
    with_orientation(coco / "train" / "1.jpg", orientation)
    (coco / "train" / "1.png").unlink()
    change_image(0, file_name="1.jpg", height=height, width=width)(coco)
    messages = [finding.message for finding in check_dataset(coco).findings if finding.code == "D103"]
    assert len(messages) == (wanted is not None)
    assert wanted is None or wanted in messages[0]


def test_only_decoding_finds_damage_behind_the_header(coco: Path) -> None:
    cut_in_half(coco / "train/1.png")
    assert [code for code, *_ in found(check_dataset(coco, decode=True))] == ["D102"]
    assert found(check_dataset(coco, decode=False)) == []


def test_splits_can_be_chosen(coco: Path) -> None:
    (coco / "train/1.png").unlink()
    assert check_dataset(coco, splits=["val"]).findings == ()
    assert list(check_dataset(coco, splits=["val"]).splits) == ["val"]
    with pytest.raises(DatasetError, match="no split 'test'; there is train, val"):
        check_dataset(coco, splits=["test"])


def test_histogram(coco: Path) -> None:
    add_annotation(11, id=13, bbox=[1, 1, 5, 5])(coco)
    add_annotation(11, id=14, bbox=[1, 1, 5, 5], iscrowd=1)(coco)
    summary = check_dataset(coco).splits["train"]
    assert (summary.num_images, summary.num_boxes) == (2, 5)
    assert summary.num_boxes_by_class == {"cat": 3, "dog": 2}
    assert summary.num_images_by_class == {"cat": 2, "dog": 2}


# VOC: a and b in train, c in val; the objects are a cat (1) and a dog (2).

OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>\n"
)
SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>\n"
CAT, DOG = OBJECT.format("cat", 5, 6, 25, 16), OBJECT.format("dog", 30, 8, 45, 33)
A_XML, TRAIN_LIST = "Annotations/a.xml", "ImageSets/Main/train.txt"


def write_xml(root: Path, stem: str, *parts: str) -> None:
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{stem}.xml").write_text("<annotation>\n" + "".join(parts) + "</annotation>\n")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for seed, stem in enumerate("abc"):
        write_noise(root / "JPEGImages" / f"{stem}.jpg", seed)
        write_xml(root, stem, SIZE, CAT, DOG)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / TRAIN_LIST).write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\n")
    return root


def objects_of_a(*parts: str) -> Break:
    return lambda root: write_xml(root, "a", SIZE, *parts)


def put(file: str, text: str) -> Break:
    return lambda root: (root / file).write_text(text)


VOC_CASES: dict[str, tuple[Break, Expected, int]] = {
    "nothing": (lambda root: None, [], 0),
    "point": (objects_of_a(CAT, DOG, OBJECT.format("cat", 9, 9, 9, 9)), [("D001", A_XML, (3,))], 1),
    "swapped corners": (objects_of_a(CAT, OBJECT.format("dog", 20, 9, 10, 19)), [("D001", A_XML, (2,))], 1),
    "past the border": (objects_of_a(CAT, OBJECT.format("dog", 20, 9, 66, 19)), [("D002", A_XML, (2,))], 1),
    "entirely outside": (objects_of_a(CAT, OBJECT.format("dog", 70, 9, 90, 19)), [("D006", A_XML, (2,))], 2),
    "duplicate": (objects_of_a(CAT, DOG, CAT), [("D003", A_XML, (1, 3))], 1),
    "no name": (objects_of_a(CAT, OBJECT.format(" ", 5, 5, 9, 9)), [("D005", A_XML, (2,))], 2),
    "corner is text": (objects_of_a(CAT, OBJECT.format("dog", "x", 5, 9, 9)), [("D005", A_XML, (2,))], 2),
    "corner is infinite": (objects_of_a(CAT, OBJECT.format("dog", 0, 5, "inf", 9)), [("D005", A_XML, (2,))], 2),
    "no corners": (objects_of_a(CAT, "<object><name>dog</name></object>"), [("D005", A_XML, (2,))], 2),
    "unknown class": (put("classes.txt", "cat\n"), [("D004", f"Annotations/{stem}.xml", (2,)) for stem in "abc"], 2),
    "missing annotation": (
        lambda root: (root / A_XML).unlink(),
        [("D100", A_XML, ()), ("D104", "JPEGImages/a.jpg", ())],
        2,
    ),
    "not XML": (put(A_XML, "<annotation>\n<object>"), [("D100", A_XML, ()), ("D104", "JPEGImages/a.jpg", ())], 2),
    "another XML": (put(A_XML, "<html/>"), [("D100", A_XML, ()), ("D104", "JPEGImages/a.jpg", ())], 2),
    "size is text": (lambda root: write_xml(root, "a", SIZE.replace("64", "wide"), CAT, DOG), [("D005", A_XML, ())], 2),
    "no size": (lambda root: write_xml(root, "a", CAT, DOG), [], 0),
    "another size": (
        lambda root: write_xml(root, "a", SIZE.replace("64", "99"), CAT, DOG),
        [("D103", "JPEGImages/a.jpg", (1, 2))],
        2,
    ),
    "missing image": (lambda root: (root / "JPEGImages/a.jpg").unlink(), [("D101", "JPEGImages/a.jpg", ())], 2),
    "truncated image": (lambda root: cut_in_half(root / "JPEGImages/a.jpg"), [("D102", "JPEGImages/a.jpg", ())], 2),
    "without objects": (objects_of_a(), [("D104", "JPEGImages/a.jpg", ())], 0),
    "document type": (
        lambda root: (root / A_XML).write_text("<!DOCTYPE a>\n" + (root / A_XML).read_text()),
        [("D100", A_XML, ()), ("D104", "JPEGImages/a.jpg", ())],
        2,
    ),
    "listed twice": (put(TRAIN_LIST, "a\nb\na\n"), [("D106", TRAIN_LIST, ())], 2),
    "in no split": (put(TRAIN_LIST, "a\n"), [("D105", "JPEGImages/b.jpg", ())], 0),
    "all of val in train too": (put(TRAIN_LIST, "a\nb\nc\n"), [("D201", "JPEGImages/c.jpg", ())], 2),
    "some of train in val too": (put("ImageSets/Main/val.txt", "c\nb\n"), [("D201", "JPEGImages/b.jpg", ())], 2),
    "trainval": (put("ImageSets/Main/trainval.txt", "a\nb\nc\n"), [], 0),
    "list leaves the folder": (put(TRAIN_LIST, "a\nb\n../a\n"), [("D107", TRAIN_LIST, ())], 2),
}


@pytest.mark.parametrize("case", VOC_CASES)
def test_voc(voc: Path, case: str) -> None:
    break_it, expected, exit_code = VOC_CASES[case]
    break_it(voc)
    report = check_dataset(voc)
    assert found(report) == [(code, file or str(voc), ids) for code, file, ids in expected]
    assert report.exit_code == exit_code
    assert_readable_if_without_errors(voc, report)


# YOLO: a and b in train, c in val; line 1 is a cat, line 2 a dog. One pixel is 1/64 of the width.

A_TXT = "labels/train/a.txt"
CAT_LINE, DOG_LINE = "0 0.25 0.25 0.2 0.2\n", "1 0.6 0.5 0.25 0.5\n"


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    for seed, name in enumerate(("train/a", "train/b", "val/c")):
        write_noise(root / "images" / f"{name}.png", seed)
        labels = root / "labels" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(CAT_LINE + DOG_LINE)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


def lines_of_a(*lines: str) -> Break:
    return put(A_TXT, "".join(lines))


def use_list_with_missing_image(root: Path) -> None:
    (root / "train.txt").write_text("images/train/a.png\nimages/train/b.png\nimages/train/x.png\n")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("train: images/train", "train: train.txt"))


YOLO_CASES: dict[str, tuple[Break, Expected, int]] = {
    "nothing": (lambda root: None, [], 0),
    "polygon": (lines_of_a(CAT_LINE, "1 0.1 0.1 0.5 0.1 0.5 0.4\n"), [], 0),
    "empty lines count": (lines_of_a("\n", CAT_LINE, "\n", "1 0.5 0.5 0 0.1\n"), [("D001", A_TXT, (4,))], 1),
    "half a pixel wide": (lines_of_a(CAT_LINE, "1 0.5 0.5 0.0078 0.1\n"), [("D001", A_TXT, (2,))], 1),
    "past the border": (lines_of_a(CAT_LINE, "1 0.95 0.5 0.2 0.1\n"), [("D002", A_TXT, (2,))], 1),
    "duplicate": (lines_of_a(CAT_LINE, DOG_LINE, DOG_LINE), [("D003", A_TXT, (2, 3))], 1),
    "unknown class": (lines_of_a(CAT_LINE, "2 0.5 0.5 0.1 0.1\n"), [("D004", A_TXT, (2,))], 2),
    "class with a fraction": (lines_of_a(CAT_LINE, "0.5 0.5 0.5 0.1 0.1\n"), [("D004", A_TXT, (2,))], 2),
    "four numbers": (lines_of_a(CAT_LINE, "1 0.5 0.5 0.1\n"), [("D005", A_TXT, (2,))], 2),
    "text": (lines_of_a(CAT_LINE, "dog 0.5 0.5 0.1 0.1\n"), [("D005", A_TXT, (2,))], 2),
    "infinite class": (lines_of_a(CAT_LINE, "inf 0.5 0.5 0.1 0.1\n"), [("D005", A_TXT, (2,))], 2),
    "pixels": (lines_of_a(CAT_LINE, "1 32 24 10 10\n"), [("D005", A_TXT, (2,))], 2),
    "without labels": (lambda root: (root / A_TXT).unlink(), [("D104", "images/train/a.png", ())], 0),
    "labels without image": (put("labels/train/x.txt", CAT_LINE), [("D101", "labels/train/x.txt", ())], 2),
    "labels are binary": (
        lambda root: (root / A_TXT).write_bytes(b"\xff\xfe\x00"),
        [("D100", A_TXT, ()), ("D104", "images/train/a.png", ())],
        2,
    ),
    "listed image missing": (
        use_list_with_missing_image,
        [("D101", "images/train/x.png", ()), ("D104", "images/train/x.png", ())],
        2,
    ),
    "image is truncated": (lambda root: cut_in_half(root / "images/val/c.png"), [("D102", "images/val/c.png", ())], 2),
    "folder missing": (lambda root: shutil.rmtree(root / "images/val"), [("D100", "data.yaml", ())], 2),
    "same image in two splits": (
        lambda root: shutil.copy(root / "images/val/c.png", root / "images/train/a.png"),
        [("D201", "images/train/a.png", ())],
        2,
    ),
    "another number of names": (
        put("data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 3\n"),
        [("D100", "data.yaml", ())],
        2,
    ),
    "no names": (
        put("data.yaml", "train: images/train\nval: images/val\nnames: 3\n"),
        [("D100", "data.yaml", ())],
        2,
    ),
}


@pytest.mark.parametrize("case", YOLO_CASES)
def test_yolo(yolo: Path, case: str) -> None:
    break_it, expected, exit_code = YOLO_CASES[case]
    break_it(yolo)
    report = check_dataset(yolo)
    assert found(report) == expected
    assert report.exit_code == exit_code
    assert_readable_if_without_errors(yolo, report)


# All formats.


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_garbage_is_survived_and_never_passed_as_readable(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    suffixes = (".json", ".xml", ".txt", ".png", ".jpg")
    files = sorted(path for path in root.rglob("*") if path.suffix in suffixes)
    generator = random.Random(0)
    pieces = [b"", b"\0", b"\xff", b"{", b"<", b"-", b"1e999", b"null", b"9" * 30, b"\n", b'"', b"nan", b" "]
    for _ in range(60):
        path = generator.choice(files)
        original = path.read_bytes()
        start = generator.randrange(len(original) + 1)
        stop = start + generator.choice((0, 1, 5, 1000))
        path.write_bytes(original[:start] + generator.choice(pieces) + original[stop:])
        try:
            report = check_dataset(root, num_threads=1)
        except DatasetError:
            continue
        else:
            assert_readable_if_without_errors(root, report)
        finally:
            path.write_bytes(original)


def tree_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.stat()
        digest.update(f"{path.relative_to(root)} {status.st_mode} {status.st_size} {status.st_mtime_ns}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_the_data_set_is_never_written_to(layout: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root: Path = request.getfixturevalue(layout)
    cut_in_half(next(iter(sorted([*root.rglob("*.png"), *root.rglob("*.jpg")]))))
    before = tree_digest(root)
    report = check_dataset(root)
    assert report.exit_code == 2
    with pytest.raises(ValueError, match="inside the data set"):
        report.write_json(root / "report.json")
    report.write_json(tmp_path / "elsewhere" / "report.json")
    assert tree_digest(root) == before


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set in a known layout; looked for"):
        check_dataset(tmp_path)
    with pytest.raises(DatasetError, match="not found; tried"):
        check_dataset(tmp_path / "absent")


def test_shapes_have_a_histogram_and_no_findings() -> None:
    report = check_dataset("shapes", splits=["val"])
    assert report.exit_code == 0
    assert set(report.splits["val"].num_boxes_by_class) == {"circle", "square", "triangle"}
    assert report.splits["val"].num_boxes == sum(report.splits["val"].num_boxes_by_class.values()) > 0


def test_relative_path_of_the_user(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (coco / "train/1.png").unlink()
    monkeypatch.chdir(coco.parent)
    assert found(check_dataset("coco")) == [("D101", "train/1.png", ())]


def test_an_image_that_may_not_be_read_is_missing(coco: Path) -> None:
    if os.geteuid() == 0:
        (coco / "train/1.png").unlink()
        (coco / "train/1.png").mkdir()
    else:
        (coco / "train/1.png").chmod(0)
    (finding,) = check_dataset(coco).findings
    assert (finding.code, finding.file) == ("D101", "train/1.png")


def test_bccd(detseg_data: Path) -> None:
    report = check_dataset(detseg_data / "bccd")
    assert sorted(found(report)) == [
        ("D001", "Annotations/BloodImage_00338.xml", (13,)),
        ("D001", "Annotations/BloodImage_00343.xml", (4,)),
    ]
    assert report.exit_code == 1
    assert {name: summary.num_images for name, summary in report.splits.items()} == {"train": 205, "val": 87}
    # grep -c "<name>RBC</name>" over the files of ImageSets/Main/val.txt
    assert report.splits["val"].num_boxes_by_class == {"Platelets": 83, "RBC": 968, "WBC": 87}


def test_coco_mini(detseg_data: Path) -> None:
    report = check_dataset(detseg_data / "coco-mini")
    assert report.findings == ()
    assert report.exit_code == 0
    # 705 and 815 annotations, of which 6 and 11 are crowd regions.
    assert {name: summary.num_boxes for name, summary in report.splits.items()} == {"train2017": 699, "val2017": 804}


def test_opencv_is_not_asked_to_decode_twice_the_same_file(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for position in (0, 1):
        change_image(position, file_name="1.png")(coco)
    calls: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: calls.append(1) or decode(*arguments))
    check_dataset(coco)
    assert len(calls) == 2
