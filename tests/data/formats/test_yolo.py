from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.check import check_dataset
from detseg.data.datasets.dataset import Dataset
from detseg.data.formats.yolo import YoloFormat, label_file
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.media.images import ImageError, write_image


def _image(path: Path) -> None:
    write_image(path, np.zeros((20, 40, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 40x20 pixels; b has no label file, c an empty one."""
    for name in ("train/a.png", "train/b.png", "train/sub/c.png", "val/d.png"):
        _image(tmp_path / "images" / name)
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0.0 0.1 0.2 2e-1 0.4\r\n")
    (tmp_path / "labels/train/sub/c.txt").write_text("")
    (tmp_path / "labels/val/d.txt").write_text("0 0.5 0.5 0 0.1\n1 0.25 0 0.5 0.5 0.75 0.25\n0 1.0 1.0 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def _open(folder: Path, split: str = "train", **settings: Any) -> Dataset:
    source = (
        DataSource(folder, {"names": ["cat", "dog"], **settings}, folder / "data.yaml")
        if settings
        else DataSource(folder)
    )
    return YoloFormat().open(source, split)


def test_a_folder_is_read(folder: Path) -> None:
    assert YoloFormat().splits(DataSource(folder)) == ("train", "val")
    dataset = _open(folder)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert [dataset.path(index) for index in range(3)] == [
        str(folder / "images/train" / name) for name in ("a.png", "b.png", "sub/c.png")
    ]
    truth = dataset.ground_truth(0)
    # Of 40x20 pixels: center (20, 10), sides 10 and 10; center (4, 4), sides 8 and 8.
    np.testing.assert_allclose(truth.boxes_xywh, [[15, 5, 10, 10], [0, 0, 8, 8]], atol=1e-12)
    np.testing.assert_allclose(truth.areas, [100, 64])
    assert truth.labels.tolist() == [1, 0]
    assert [len(dataset.ground_truth(index).labels) for index in (1, 2)] == [0, 0]
    np.testing.assert_allclose(dataset.load(0).boxes_xyxy, [[15, 5, 25, 15], [0, 0, 8, 8]], atol=1e-5)


def test_polygons_and_boxes_over_the_border(folder: Path) -> None:
    dataset = _open(folder, "val")
    truth = dataset.ground_truth(0)
    assert truth.boxes_xywh.tolist() == [[10, 0, 20, 10], [30, 15, 20, 10]]
    assert dataset.load(0).boxes_xyxy.tolist() == [[10, 0, 30, 10], [30, 15, 40, 20]]
    assert dataset.num_dropped == 1
    polygons, nothing = dataset.segmentations(0)
    assert np.asarray(polygons).tolist() == [[[10, 0], [20, 10], [30, 5]]]
    assert nothing is None


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("images/train", ["a.png", "b.png", "c.png"]),
        (["images/val", "images/train/sub"], ["d.png", "c.png"]),
        ("list.txt", ["d.png", "a.png"]),
        ("../images/val", ["d.png"]),
    ],
)
def test_what_a_yaml_may_name(folder: Path, entry: Any, names: list[str]) -> None:
    (folder / "list.txt").write_text(f"./images/val/d.png\n{folder}/images/train/a.png\n")
    dataset = _open(folder, train=entry, nc=2)
    assert [Path(dataset.path(index)).name for index in range(len(dataset))] == names


def test_a_yaml_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.txt").write_text(f"{folder}/images/val/d.png\n")
    settings = {"path": str(folder), "train": "images/train", "val": "mine.txt", "names": {0: "cat", 1: "dog"}}
    source = DataSource(elsewhere, settings, elsewhere / "data.yaml")
    assert YoloFormat().splits(source) == ("train", "val")
    assert len(YoloFormat().open(source, "train")) == 3
    assert YoloFormat().open(source, "val").path(0) == f"{folder}/images/val/d.png"


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/set/images/train/a.jpg", "/set/labels/train/a.txt"),
        ("/images/set/images/a.b.jpg", "/images/set/labels/a.b.txt"),
        ("/set/train/images.jpg", "/set/train/images.txt"),
    ],
)
def test_where_the_labels_are(image: str, label: str) -> None:
    assert label_file(Path(image)) == Path(label)


def test_key_points_behind_a_box_are_passed_over(folder: Path) -> None:
    """Two points of two numbers each; lines without them are boxes, and those of another length are refused."""
    label = folder / "labels/val/d.txt"
    label.write_text("0 0.5 0.5 0.25 0.5 0.9 0.9 0.1 0.1\n1 0.5 0.5 0.25 0.5\n")
    dataset = _open(folder, "val", val="images/val", kpt_shape=[2, 2])
    truth = dataset.ground_truth(0)
    assert truth.labels.tolist() == [0, 1]
    assert truth.boxes_xywh.tolist() == [[15, 5, 10, 10], [15, 5, 10, 10]]
    with pytest.raises(DatasetError, match=r"line 1: expected a box of 5 numbers, alone or with 6 of key points"):
        _open(folder, "val", val="images/val", kpt_shape=[2, 3])
    # Without the shape the first line is a polygon: x from 0.1 to 0.9 of 40, y from 0.1 to 0.9 of 20.
    assert _open(folder, "val", val="images/val").ground_truth(0).boxes_xywh[0].tolist() == [4, 2, 32, 16]
    with pytest.raises(DatasetError, match=r"kpt_shape: expected \[number of key points, 2 or 3\], got \[2, 2, 2\]"):
        _open(folder, "val", val="images/val", kpt_shape=[2, 2, 2])


def test_labels_of_no_image_and_of_two_are_named(folder: Path) -> None:
    def found() -> list[tuple[str, str]]:
        records = YoloFormat().records(DataSource(folder), "train", "boxes")
        return [(finding.code, Path(finding.file).name) for finding in records.findings]

    assert found() == []
    _image(folder / "images/train/a.jpg")
    (folder / "labels/train/sub/lost.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    assert found() == [("D101", "lost.txt"), ("D106", "a.txt")]


def test_a_byte_order_mark_is_passed_over(folder: Path) -> None:
    path = folder / "labels/train/a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(_open(folder).ground_truth(0).labels) == 2
    assert "D005" not in check_dataset(folder).by_code()


def test_linked_folders_are_followed_by_all_and_no_image_is_taken_twice(folder: Path, tmp_path: Path) -> None:
    (folder / "images/train/sub").rename(folder / "store")
    (folder / "images/train/sub").symlink_to(folder / "store", target_is_directory=True)
    (folder / "images/train/around").symlink_to(folder / "images", target_is_directory=True)
    dataset = _open(folder)
    assert sum(Path(dataset.path(index)).name == "c.png" for index in range(len(dataset))) == 1
    assert check_dataset(folder).splits["train"].num_images == len(dataset)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "expected `class cx cy w h` or .*got 4 numbers: '0 0.5 0.5 0.5'"),
        ("0 0.5 0.5 0.5 0.5 0.5", "got 6 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "got 8 numbers"),
        ("2 0.5 0.5 0.5 0.5", "class 2, allowed are integers from 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1, allowed are integers from 0 to 1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5, allowed"),
        ("cat 0.5 0.5 0.5 0.5", "'cat', allowed are finite numbers"),
        ("0 0.5 nan 0.5 0.5", "'nan', allowed are finite numbers"),
        ("0 120 80 30 30", "120, allowed are 0 to 1"),
        ("0 0.5 0.5 -0.2 0.5", "-0.2, allowed are 0 to 1"),
        ("0 0.5 0.5 0.5 1.02", "1.02, allowed are 0 to 1"),
    ],
)
def test_bad_lines_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "labels/train/b.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(DatasetError, match=rf"labels/train/b\.txt: line 2: .*{message}"):
        _open(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "images/none"}, r"data\.yaml: train: 'images/none' not found; tried .*/images/none"),
        ({"train": "../none"}, r"'\.\./none' not found; tried .*/none, .*/none"),
        ({"train": 3}, "train: expected a folder, a .txt list, or a list of these, got 3"),
        ({"train": "images/train/a.png"}, "expected a folder of images or a .txt list"),
        ({"train": "labels/train"}, "no images of train; suffixes are .bmp"),
        ({"train": "images/train", "path": "nowhere"}, "path not found; tried .*/nowhere"),
        ({"train": "images/train", "nc": 3}, "nc is 3, but there are 2 names"),
        ({"train": "images/train", "names": {1: "cat", 2: "dog"}}, "names: keys must be 0 to 1, got 1, 2"),
        ({"train": "images/train", "names": {"a": "cat"}}, "names: keys must be 0 to 0, got a"),
        ({"train": "images/train", "names": ["yes", True]}, "every class name must be text, got True"),
        ({"train": "images/train", "names": "cat"}, "expected a list of class names"),
        ({"train": "images/train", "kpt_shape": 17}, "kpt_shape: expected .number of key points, 2 or 3., got 17"),
        ({"train": "list.txt"}, r"list\.txt: image not found; tried .*/none\.png"),
    ],
)
def test_a_yaml_that_is_wrong(folder: Path, settings: dict[str, Any], message: str) -> None:
    (folder / "list.txt").write_text("none.png\n")
    with pytest.raises(DatasetError, match=message):
        _open(folder, **settings)


def test_numbers_as_class_names(folder: Path) -> None:
    assert _open(folder, train="images/train", names=[0, 1]).class_names == ("0", "1")


def test_no_labels_at_all(folder: Path) -> None:
    (folder / "labels").rename(folder / "annotations")
    with pytest.raises(
        DatasetError, match=r"none of 3 images of train has a label file, such as .*/labels/train/a\.txt"
    ):
        _open(folder, train="images/train")


def test_no_class_names(folder: Path) -> None:
    (folder / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"list of class names, one per line, not found; tried .*classes\.txt"):
        _open(folder)


def test_a_damaged_image_is_an_error_when_it_is_loaded(folder: Path) -> None:
    (folder / "images/train/a.png").write_bytes(b"damaged")
    dataset = _open(folder)
    assert dataset.size(0) == (0, 0)
    assert dataset.num_dropped == 0
    with pytest.raises(ImageError, match=r"a\.png"):
        dataset.load(0)
    assert dataset.load(1).image.shape == (20, 40, 3)


PERSON = "0 0.5 0.5 0.4 0.6"
"""A box from 0.3, 0.2 to 0.7, 0.8."""


def _fill(folder: Path, *lines: str) -> None:
    (folder / "labels/train/b.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("points", "num_points"),
    [
        ("0.4 0.3 2 0.6 0.7 1", 2),
        ("0.4 0.3 1 0 0 0", 2),  # one that nobody marked
        ("0.4 0.3 1 0.6 0.7 0 0.5 0.5 2 0.3 0.2 2", 4),
    ],
)
def test_a_box_with_visible_key_points_is_no_polygon(folder: Path, points: str, num_points: int) -> None:
    _fill(folder, f"{PERSON} {points}")
    message = rf"b\.txt: line 1: .*box with {num_points} key points.*kpt_shape: \[{num_points}, 3\] in the YAML"
    with pytest.raises(DatasetError, match=message):
        _open(folder)
    settings: dict[str, Any] = {"train": "images/train", "kpt_shape": [num_points, 3]}
    assert _open(folder, **settings).ground_truth(1).boxes_xywh.round(6).tolist() == [[12, 4, 16, 12]]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9 0.05 0.5",  # no visibility
        "0 0.1 0.1 0.2 0.1 1 0.5 0 0.1 0.9 0",  # 0 in every third place, but no box that holds the rest
        "0 0 0 1 0 1 1 0 1",  # the whole image
    ],
)
def test_polygons_stay_polygons(folder: Path, line: str) -> None:
    _fill(folder, *[line] * 3)
    assert "D015" not in check_dataset(folder).by_code()
    assert len(_open(folder).ground_truth(1).labels) == 3


def test_many_boxes_with_key_points_without_visibility_are_no_polygons(folder: Path) -> None:
    """Three lines are named, twenty are refused, and one other polygon among them says that all are polygons."""
    line = f"{PERSON} 0.4 0.3 0.6 0.7"
    _fill(folder, *[line] * 2)
    assert "D015" not in check_dataset(folder).by_code()
    _fill(folder, *[line] * 3)
    assert check_dataset(folder).by_code()["D015"]
    _fill(folder, *[line] * 20)
    with pytest.raises(DatasetError, match=r"all 20 lines with 9 numbers.*2 key points.*kpt_shape: \[2, 2\]"):
        _open(folder)
    settings: dict[str, Any] = {"train": "images/train"}
    assert len(_open(folder, **settings, kpt_shape=None).segmentations(1)) == 20
    assert (
        _open(folder, **settings, kpt_shape=[2, 2]).ground_truth(1).boxes_xywh.round(6).tolist()
        == [[12, 4, 16, 12]] * 20
    )
    _fill(folder, *[line] * 20, "0 0.1 0.1 0.9 0.1 0.9 0.9")
    assert len(_open(folder).segmentations(1)) == 21
