from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.data.entries.voc_xml import MAX_XML_BYTES
from detseg.data.formats.voc import VocFormat
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.media.images import ImageError, write_image


def _object(name: str, corners: tuple[Any, Any, Any, Any], extra: str = "") -> str:
    xmin, ymin, xmax, ymax = corners
    # VOC 2011 has the corners in another order than VOC 2007.
    box = f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin>"
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def _write(folder: Path, stem: str, *objects: str, size: str = "40 20", filename: str = "") -> Path:
    width, height = size.split()
    head = f"<filename>{filename}</filename><size><width>{width}</width><height>{height}</height></size>"
    path = folder / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{head}{''.join(objects)}</annotation>")
    return path


def _list(folder: Path, split: str, *lines: str) -> None:
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _image(folder: Path, name: str, width: int = 40, height: int = 20) -> None:
    write_image(folder / "JPEGImages" / name, np.zeros((height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three images in two splits; only val has the class ape."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    _write(tmp_path, "one", _object("dog", (1, 2, 11, 7)), _object("cat", (0, 0, "40.0", " 2e1 "), part))
    _write(tmp_path, "two", _object("dog", (5, 5, 5, 5)), _object(" dog ", (3, 3, 4, 9), "<difficult>1</difficult>"))
    _write(tmp_path, "three", _object("ape", (1, 1, 2, 2)))
    _list(tmp_path, "train", "two", "one", "")
    _list(tmp_path, "val", "three")
    for name in ("one.jpg", "two.PNG", "three.jpeg"):
        _image(tmp_path, name)
    return tmp_path


def _open(folder: Path, split: str = "train") -> Dataset:
    return VocFormat().open(DataSource(folder), split)


def test_a_folder_is_read(folder: Path) -> None:
    assert VocFormat().splits(DataSource(folder)) == ("train", "val")
    dataset = _open(folder)
    assert dataset.class_names == _open(folder, "val").class_names == ("ape", "cat", "dog")
    assert dataset.category_ids == (1, 2, 3)
    assert [(dataset.image_id(index), dataset.path(index)) for index in (0, 1)] == [
        (1, str(folder / "JPEGImages/two.PNG")),
        (2, str(folder / "JPEGImages/one.jpg")),
    ]
    truth = dataset.ground_truth(1)
    assert truth.boxes_xywh.tolist() == [[1, 2, 10, 5], [0, 0, 40, 20]]
    assert truth.labels.tolist() == [2, 1]
    assert truth.areas.tolist() == [50, 800]
    assert (truth.height, truth.width) == (20, 40)
    assert dataset.load(1).boxes_xyxy.tolist() == [[1, 2, 11, 7], [0, 0, 40, 20]]


def test_boxes_of_no_size_are_left_out_and_counted(folder: Path) -> None:
    dataset = _open(folder)
    assert dataset.num_dropped == 1
    assert dataset.ground_truth(0).boxes_xywh.tolist() == [[3, 3, 1, 6]]
    assert dataset.difficult(0).tolist() == [True]
    assert dataset.difficult(1).tolist() == [False, False]
    assert not dataset.ground_truth(0).crowd.any()


def test_class_names_from_a_file_or_a_yaml(folder: Path) -> None:
    (folder / "classes.txt").write_text("dog\ncat\nape\nyak\n")
    assert _open(folder).class_names == ("dog", "cat", "ape", "yak")
    source = DataSource(
        folder.parent, {"format": "voc", "path": folder.name, "names": ["cat", "dog"]}, folder / "data.yaml"
    )
    dataset = VocFormat().open(source, "train")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ground_truth(1).labels.tolist() == [1, 0]
    with pytest.raises(DatasetError, match=r"three\.xml: object 1: 'ape' is no class; known are 0 cat, 1 dog"):
        VocFormat().open(source, "val")


def test_splits_from_a_yaml(folder: Path) -> None:
    (folder.parent / "mine.txt").write_text("one\n")
    settings = {"format": "voc", "path": folder.name, "mine": "mine.txt", "other": "none.txt"}
    source = DataSource(folder.parent, settings, folder.parent / "data.yaml")
    assert VocFormat().splits(source) == ("mine", "other")
    assert len(VocFormat().open(source, "mine")) == 1
    with pytest.raises(DatasetError, match=r"other not found; tried .*none\.txt"):
        VocFormat().open(source, "other")


def test_lists_of_one_class_are_no_splits(folder: Path) -> None:
    _list(folder, "dog_train", "one  1", "two -1")
    assert VocFormat().splits(DataSource(folder)) == ("train", "val")


def test_the_image_is_found_by_its_stem_then_by_the_file_name(folder: Path) -> None:
    _write(folder, "one", filename="two.PNG")
    _write(folder, "two", filename="renamed.jpg")
    (folder / "JPEGImages/two.PNG").rename(folder / "JPEGImages/renamed.jpg")
    dataset = _open(folder)
    assert [Path(dataset.path(index)).name for index in (0, 1)] == ["renamed.jpg", "one.jpg"]


def test_lists_may_give_files_and_names_may_look_like_files(folder: Path) -> None:
    """`one.jpg` is the image of one.xml; `a.jpg` is the name of a.jpg.xml."""
    _write(folder, "a.jpg", _object("cat", (1, 2, 3, 4)), filename="shot.png")
    _image(folder, "shot.png")
    _list(folder, "train", "one.jpg", "a.jpg")
    dataset = _open(folder)
    assert [Path(dataset.path(index)).name for index in (0, 1)] == ["one.jpg", "shot.png"]
    assert dataset.ground_truth(1).boxes_xywh.tolist() == [[1, 2, 2, 2]]


@pytest.mark.parametrize(("encoding", "name"), [("windows-1251", "кот"), ("gb2312", "猫")])
def test_xml_in_an_encoding_of_windows_is_read(folder: Path, encoding: str, name: str) -> None:
    path = _write(folder, "one", _object(name, (1, 2, 11, 7)))
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{path.read_text()}'.encode(encoding))
    assert _open(folder).class_names == ("ape", "dog", name)


def test_an_xml_file_that_is_too_large_is_named(folder: Path) -> None:
    with (folder / "Annotations/one.xml").open("ab") as file:
        file.truncate(MAX_XML_BYTES + 1)
    with pytest.raises(DatasetError, match=rf"one\.xml: is larger than {MAX_XML_BYTES:,} bytes"):
        _open(folder)


def test_a_missing_image_is_an_error_of_the_image(folder: Path) -> None:
    (folder / "JPEGImages/one.jpg").unlink()
    with pytest.raises(ImageError, match=r"JPEGImages/one\.jpg"):
        _open(folder).load(1)


def test_the_size_comes_from_the_image_where_the_annotation_has_none(folder: Path) -> None:
    _write(folder, "one", size="0 0")
    (folder / "Annotations/two.xml").write_text("<annotation/>")
    (folder / "JPEGImages/two.PNG").write_bytes(b"damaged")
    dataset = _open(folder)
    assert [dataset.size(index) for index in (0, 1)] == [(0, 0), (20, 40)]
    with pytest.raises(ImageError, match=r"two\.PNG"):
        dataset.load(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid VOC annotation"),
        ("<annotation><object></annotation>", "no valid VOC annotation"),
        ("<html/>", "expected <annotation> as outermost element, got <html>"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "no valid VOC annotation"),
        ('<!DOCTYPE a [<!ENTITY x "xx">]><annotation>&x;</annotation>', "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE"),
        ("<annotation><object/></annotation>", "an object without <name>"),
        (f"<annotation>{_object('dog', ('a', 1, 2, 3))}</annotation>", "object 1: bndbox/xmin must be .*got 'a'"),
        (f"<annotation>{_object('dog', (0, 1, 'nan', 3))}</annotation>", "object 1: bndbox/xmax must be .*got 'nan'"),
        (f"<annotation>{_object('dog', (0, 1, 2, ''))}</annotation>", "object 1: bndbox/ymax must be .*got ''"),
        ("<annotation><object><name>dog</name></object></annotation>", "an object without <bndbox>"),
        (
            "<annotation><size><width>a</width></size></annotation>",
            "size must be positive .*, got height None, width 'a'",
        ),
        ("<annotation><size><width>inf</width></size></annotation>", "size must be positive integers"),
        ("<annotation><filename>../../x.jpg</filename></annotation>", "filename must stay inside"),
    ],
)
def test_bad_annotations_are_named(folder: Path, content: str, message: str) -> None:
    (folder / "Annotations/one.xml").write_text(content)
    (folder / "JPEGImages/one.jpg").unlink()
    with pytest.raises(DatasetError, match=f"one.xml.*{message}"):
        _open(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("four", r"four\.xml: cannot be read: No such file"),
        ("../one", "leaves"),
        ("one", "twice"),
    ],
)
def test_bad_lists_are_named(folder: Path, line: str, message: str) -> None:
    _list(folder, "train", "one", line)
    with pytest.raises(DatasetError, match=message):
        _open(folder)


def test_no_folder_of_images(folder: Path) -> None:
    (folder / "JPEGImages").rename(folder / "images")
    with pytest.raises(DatasetError, match="JPEGImages: no such folder"):
        _open(folder)


@pytest.mark.parametrize(
    ("split", "num_images", "num_objects"),
    # Of the 2805 and 1138 objects in the files one RBC each has no size.
    [
        ("train", 205, {"RBC": 2381, "WBC": 214, "Platelets": 209}),
        ("val", 87, {"RBC": 967, "WBC": 87, "Platelets": 83}),
    ],
)
def test_real_files(detseg_data: Path, split: str, num_images: int, num_objects: dict[str, int]) -> None:
    dataset = VocFormat().open(DataSource(detseg_data / "bccd"), split)
    assert len(dataset) == num_images
    counts = np.bincount(dataset.annotations.labels)
    assert dict(zip(dataset.class_names, counts.tolist(), strict=True)) == num_objects
    assert dataset.num_dropped == 1
    assert all(Path(dataset.path(index)).is_file() for index in range(len(dataset)))
    assert all(dataset.size(index) == (480, 640) for index in range(len(dataset)))
    sample = dataset.load(0)
    assert sample.image.shape == (480, 640, 3)
    assert len(sample.boxes_xyxy) == len(dataset.ground_truth(0).boxes_xywh) > 0
