from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.data.formats.coco import CocoFormat, coco_records
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.media.images import write_image

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 30, "file_name": "c.png", "height": 20, "width": 40},
        {"id": 10, "file_name": "sub/a.png", "height": 20, "width": 40},
        {"id": 20, "file_name": "b.png", "height": 20, "width": 40},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "cow"}],
    "annotations": [
        {"id": 7, "image_id": 10, "category_id": 9, "bbox": [1, 2, 3.5, 4], "area": 12.25, "iscrowd": 0,
         "segmentation": [[1, 2, 4.5, 2, 4.5, 6]]},
        {"id": 0, "image_id": 30, "category_id": 2, "bbox": [0, 0, 40, 20], "area": 100, "iscrowd": 1,
         "segmentation": {"counts": [0, 100, 700], "size": [20, 40]}},
        {"id": 5, "image_id": 10, "category_id": 5, "bbox": [5, 5, 0, 3], "area": 0.0},
    ],
}  # fmt: skip


def _write(folder: Path, content: Any, name: str = "instances_val2017.json", images: str = "val2017") -> Path:
    path = folder / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    write_image(folder / images / "sub" / "a.png", np.zeros((20, 40, 3), np.uint8))
    return path


def _open(folder: Path, split: str = "val") -> Dataset:
    return CocoFormat().open(DataSource(folder), split)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, CONTENT)
    dataset = _open(tmp_path)
    assert dataset.class_names == ("cat", "cow", "dog")
    assert dataset.category_ids == (2, 5, 9)
    assert [dataset.image_id(index) for index in range(len(dataset))] == [30, 10, 20]
    assert dataset.path(1) == str(tmp_path / "val2017/sub/a.png")
    crowd, objects, empty = (dataset.ground_truth(index) for index in range(3))
    assert (crowd.crowd.tolist(), crowd.areas.tolist(), crowd.labels.tolist()) == ([True], [100], [0])
    assert objects.boxes_xywh.tolist() == [[1, 2, 3.5, 4], [5, 5, 0, 3]]
    assert objects.labels.tolist() == [2, 1]
    assert objects.areas.tolist() == [12.25, 0]
    assert dataset.annotation_ids(1).tolist() == [7, 5]
    assert len(empty.labels) == 0
    assert dataset.num_dropped == 1
    assert dataset.load(1).boxes_xyxy.tolist() == [[1, 2, 4.5, 6]]
    polygons, nothing = dataset.segmentations(1)
    assert np.asarray(polygons).tolist() == [[[1, 2], [4.5, 2], [4.5, 6]]]
    assert nothing is None
    assert dataset.segmentations(0) == [{"counts": [0, 100, 700], "size": [20, 40]}]


def test_area_and_crowd_may_be_missing(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [{"id": 1, "image_id": 10, "category_id": 2, "bbox": [1, 2, 3, 4]}]
    records = coco_records(_write(tmp_path, content), [tmp_path / "val2017"], "val")
    truth = records.to_dataset().ground_truth(1)
    assert truth.areas.tolist() == [12]
    assert truth.crowd.tolist() == [False]


@pytest.mark.parametrize("images", ["val2017", "images/val2017", "val", "images/val", "images", "."])
def test_where_the_images_may_be(tmp_path: Path, images: str) -> None:
    _write(tmp_path, CONTENT, images=images)
    for other in ("val2017", "images"):
        (tmp_path / other).mkdir(exist_ok=True)
    assert Path(_open(tmp_path).path(1)) == tmp_path / images / "sub/a.png"


def test_images_nowhere(tmp_path: Path) -> None:
    _write(tmp_path, CONTENT, images="elsewhere")
    with pytest.raises(DatasetError, match=r"its images \(as c\.png\) not found; tried .*val2017, .*images/val2017"):
        _open(tmp_path)


def test_the_layout_of_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(CONTENT))
        write_image(tmp_path / split / "b.png", np.zeros((20, 40, 3), np.uint8))
    assert CocoFormat().splits(DataSource(tmp_path)) == ("train", "valid")
    dataset = _open(tmp_path, "val")
    assert dataset.path(2) == str(tmp_path / "valid/b.png")
    assert dataset.home == tmp_path


def _yaml(folder: Path, settings: dict[str, Any]) -> DataSource:
    return DataSource(folder, settings, folder / "data.yaml")


def test_a_yaml_names_the_files(tmp_path: Path) -> None:
    _write(tmp_path / "set", CONTENT)
    val = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    source = _yaml(tmp_path, {"format": "coco", "path": "set", "val": val})
    assert CocoFormat().splits(source) == ("val",)
    assert CocoFormat().open(source, "val").path(1) == str(tmp_path / "set/val2017/sub/a.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere"}, r"path not found; tried .*nowhere"),
        (
            {"val": {"images": "x", "annotations": "annotations/instances_val2017.json"}},
            r"images not found; tried .*/x",
        ),
        ({"val": {"images": "val2017", "annotations": "y.json"}}, r"annotations not found; tried .*/y\.json"),
        ({"vall": "images"}, "vall: expected {images: FOLDER, annotations: FILE}, got 'images'"),
    ],
)
def test_a_yaml_that_is_wrong(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    _write(tmp_path, CONTENT)
    val = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    with pytest.raises(DatasetError, match=message):
        CocoFormat().open(_yaml(tmp_path, {"format": "coco", "val": val, **settings}), "val")


BAD_RECORDS: list[tuple[str, int, dict[str, Any], str]] = [
    ("annotations", 0, {"category_id": 3}, r"annotation 7: category_id must be one of .*, got 3"),
    ("annotations", 0, {"category_id": True}, r"category_id must be .*got True"),
    ("annotations", 0, {"image_id": 99}, r"annotation 7: image_id must be the id of one of .*got 99"),
    ("annotations", 0, {"image_id": [10]}, r"image_id must be .*got \[10\]"),
    ("annotations", 0, {"bbox": [1, 2, 3]}, r"annotation 7: the box must be 4 finite numbers x, y, width, height"),
    ("annotations", 0, {"bbox": [1, 2, 3, float("nan")]}, r"annotation 7: the box must be 4 finite numbers"),
    ("annotations", 0, {"bbox": [1, 2, 3, 1e300]}, r"annotation 7: the box must be 4 finite numbers"),
    ("annotations", 0, {"bbox": [1, 2, "3", 4]}, r"annotation 7: the box must be 4 finite numbers"),
    ("annotations", 0, {"bbox": ..., "segmentation": ...}, r"annotation 7: the box must be 4 finite numbers.*got None"),
    ("annotations", 0, {"iscrowd": 2}, r"annotation 7: iscrowd must be 0 or 1, got 2"),
    ("annotations", 0, {"id": 5}, r"annotation 5: 2 entries of annotations have the id 5"),
    ("annotations", 0, {"id": 2**63}, r"annotations\[0\]: id must be an integer"),
    ("images", 1, {"id": 30}, r"2 entries of images have the id 30"),
    ("images", 1, {"id": ...}, r"images\[1\]: id must be an integer, got no such key"),
    ("images", 1, {"file_name": "../secret.png"}, r"image 10: file_name must stay inside .*'\.\./secret\.png'"),
    ("images", 1, {"file_name": "/etc/passwd"}, r"image 10: file_name must stay inside"),
    ("images", 1, {"height": -20}, r"image 10 \(.*\): height and width must be integers from 1"),
    ("images", 1, {"width": 40.5}, r"image 10 \(.*\): height and width must be integers .*got 20 and 40\.5"),
    ("images", 1, {"width": "40"}, r"image 10 \(.*\): height and width must be integers .*got 20 and '40'"),
    ("annotations", 0, {"id": "x7"}, r"annotations\[0\]: id must be an integer, got 'x7'"),
    ("images", 1, {"file_name": 3}, r"image 10: file_name must be text, got 3"),
    ("categories", 1, {"id": 9}, r"2 entries of categories have the id 9"),
    ("categories", 1, {"name": None}, r"category 2: name must be text, got None"),
    ("categories", 1, {"name": "dog"}, r"categories: class names must differ, but there are several of dog"),
]


@pytest.mark.parametrize(("kind", "position", "change", "message"), BAD_RECORDS)
def test_bad_records_are_named(tmp_path: Path, kind: str, position: int, change: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(CONTENT)
    record = content[kind][position]
    record.update(change)
    content[kind][position] = {key: value for key, value in record.items() if value is not ...}
    path = _write(tmp_path, content)
    with pytest.raises(DatasetError, match=message) as caught:
        _open(tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid JSON"),
        ('{"images": [', "no valid JSON"),
        ("[" * 200_000, "no valid JSON"),
        ("[]", "must be an object with images, annotations and categories, got"),
        ('{"images": [], "categories": []}', "annotations must be a list, got no such key"),
        ('{"images": {}, "categories": [], "annotations": []}', "images must be a list, got {}"),
        ('{"images": [3], "categories": [], "annotations": []}', r"images\[0\]: must be an object, got 3"),
        ('{"images": [], "categories": [], "annotations": []}', "categories: expected a list of class names"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(DatasetError, match=f"{re.escape(str(path))}.*{message}"):
        _open(tmp_path)


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [{"id": number, "image_id": 1} for number in range(1000)]
    content["categories"][0]["name"] = None
    with pytest.raises(DatasetError) as caught:
        coco_records(_write(tmp_path, content), [tmp_path], "val").refuse()
    assert "category 9: " in str(caught.value)
    assert "annotation 7: " in str(caught.value)
    assert "annotation 500: " not in str(caught.value)


@pytest.mark.parametrize(("split", "num_objects"), [("train", 705), ("val2017", 815)])
def test_equal_to_pycocotools_on_real_files(detseg_data: Path, split: str, num_objects: int) -> None:
    from pycocotools.coco import COCO

    dataset = CocoFormat().open(DataSource(detseg_data / "coco-mini"), split)
    official = COCO(detseg_data / "coco-mini/annotations" / f"instances_{dataset.split}.json")
    assert len(dataset) == 80
    assert len(dataset.annotations.labels) == num_objects
    assert dataset.category_ids == tuple(sorted(official.getCatIds()))
    assert dataset.class_names == tuple(one["name"] for one in official.loadCats(dataset.category_ids))
    assert [dataset.image_id(index) for index in range(80)] == official.getImgIds()
    for index in range(80):
        truth = dataset.ground_truth(index)
        expected = official.loadAnns(official.getAnnIds(dataset.image_id(index)))
        assert truth.boxes_xywh.tolist() == [one["bbox"] for one in expected]
        assert truth.areas.tolist() == [one["area"] for one in expected]
        assert truth.crowd.tolist() == [bool(one["iscrowd"]) for one in expected]
        assert [dataset.category_ids[label] for label in truth.labels] == [one["category_id"] for one in expected]
        assert dataset.annotation_ids(index).tolist() == [one["id"] for one in expected]
        for outline, one in zip(dataset.segmentations(index), expected, strict=True):
            if one["iscrowd"]:
                assert outline == one["segmentation"]
            else:
                assert outline is not None
                flat = [np.asarray(polygon).ravel() for polygon in outline]
                assert all(np.allclose(*pair, atol=1e-4) for pair in zip(flat, one["segmentation"], strict=True))
    first = dataset.load(0)
    assert first.image.shape[:2] == dataset.size(0)
