from __future__ import annotations

import gc
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.packed import PackedBuilder
from detseg.data.datasets.subset import ImageSubset
from detseg.data.format import match_split
from detseg.data.source import (
    DatasetError,
    check_class_names,
    find_existing,
    leaves_root,
    read_lines,
    relative_candidates,
)
from detseg.runtime.media.images import ImageError, write_image


def _dataset(root: Path, boxes: list[tuple[float, float, float, float]], num_images: int = 1) -> Dataset:
    """Images of 40x20 pixels; the first has the boxes, the second of which is a crowd."""
    builder = PackedBuilder()
    for index in range(num_images):
        builder.add_image(index + 10, f"{index}.png", 20, 40)
    for number, box in enumerate(boxes):
        builder.add_object(0, box, number % 3, crowd=number == 1, annotation_id=number + 50)
    return Dataset(root=root, split="train", class_names=("a", "b", "c"), annotations=builder.build())


def test_load_clips_and_drops_what_ground_truth_keeps(tmp_path: Path) -> None:
    boxes = [
        (-5.0, 2.0, 10.0, 30.0),  # over the left and lower border
        (1.0, 1.0, 38.0, 18.0),  # a crowd
        (3.0, 3.0, 0.5, 10.0),  # narrower than a pixel
        (50.0, 3.0, 10.0, 10.0),  # outside
        (39.5, 3.0, 10.0, 10.0),  # half a pixel of it inside
        (8.0, 8.0, -4.0, 4.0),  # inverted
        (4.0, 5.0, 1.0, 1.0),  # exactly a pixel
    ]
    dataset = _dataset(tmp_path, boxes)
    write_image(tmp_path / "0.png", np.full((20, 40, 3), 7, np.uint8))
    sample = dataset.load(0)
    assert sample.boxes_xyxy.tolist() == [[0, 2, 5, 20], [1, 1, 39, 19], [4, 5, 5, 6]]
    assert sample.labels.tolist() == [0, 1, 0]
    assert sample.crowd.tolist() == [False, True, False]
    assert (sample.image_id, sample.path) == (10, str(tmp_path / "0.png"))
    assert sample.image.shape == (20, 40, 3)
    assert (sample.transform.scale_x, sample.transform.offset_y, sample.transform.original_width) == (1, 0, 40)
    assert dataset.num_dropped == 4
    truth = dataset.ground_truth(0)
    assert truth.boxes_xywh.tolist() == [list(box) for box in boxes]
    assert (truth.height, truth.width) == (20, 40)
    assert dataset.annotation_ids(0).tolist() == [50, 51, 52, 53, 54, 55, 56]


def test_an_image_without_objects_is_a_sample(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.zeros((20, 40, 3), np.uint8))
    dataset = _dataset(tmp_path, [])
    assert dataset.load(0).boxes_xyxy.shape == (0, 4)
    assert dataset.ground_truth(0).boxes_xywh.shape == (0, 4)
    assert dataset.category_ids == (1, 2, 3)


def test_an_image_of_another_size_than_annotated(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.zeros((40, 20, 3), np.uint8))
    with pytest.raises(ImageError, match=r"0\.png: 20x40 pixels.*annotations are for 40x20"):
        _dataset(tmp_path, []).load(0)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_an_image_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"0\.png"):
        _dataset(tmp_path, []).load(0)


def test_masks_only_where_there_are_any(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, [])
    assert (dataset.target, dataset.has_masks) == ("boxes", False)
    for ask in (dataset.mask, dataset.mask_path):
        with pytest.raises(AssertionError, match="only for data sets with masks"):
            ask(0)


def test_classes_of_masks_say_nothing_about_boxes(tmp_path: Path) -> None:
    boxes = _dataset(tmp_path, [(0, 0, 9, 9)])
    with pytest.raises(AssertionError, match="nothing about boxes"):
        Dataset(root=tmp_path, split="train", class_names="abc", annotations=boxes.annotations, target="masks")
    empty = _dataset(tmp_path, []).annotations
    assert Dataset(root=tmp_path, split="train", class_names="abc", annotations=empty, target="masks").has_masks


def test_there_is_no_image_minus_one(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        _dataset(tmp_path, []).load(-1)


def test_the_number_of_python_objects_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    def count(dataset: Dataset) -> int:
        seen, queue = {id(dataset)}, deque([dataset])
        while queue:
            for child in gc.get_referents(queue.popleft()):
                if not isinstance(child, type) and id(child) not in seen:
                    seen.add(id(child))
                    queue.append(child)
        return len(seen)

    assert count(_dataset(tmp_path, [(0, 0, 9, 9)], 1000)) == count(_dataset(tmp_path, [(0, 0, 9, 9)], 10))


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [
        ("val", ["train", "val"], "val"),
        ("val", ["train2017", "val2017"], "val2017"),
        ("val", ["val", "val2017"], "val"),
        ("val", ["train", "valid", "test"], "valid"),
        ("val", ["validation"], "validation"),
        ("val2017", ["val2014", "val2017"], "val2017"),
    ],
)
def test_the_split_that_is_meant(wanted: str, available: list[str], expected: str) -> None:
    assert match_split(wanted, available, "here") == expected


@pytest.mark.parametrize(
    ("wanted", "available", "message"),
    [
        ("val", ["val2014", "val2017"], "here: the split 'val' may be val2014 or val2017"),
        ("train", ["trainval"], "here: no split 'train'; there is trainval"),
        ("test", [], "no split 'test'; there is none"),
        ("val2017", ["val"], "no split 'val2017'"),
    ],
)
def test_no_such_split(wanted: str, available: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        match_split(wanted, available, "here")


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "", "a\0.jpg", "..\\a.jpg", "C:\\a.jpg", ".."]
)
def test_names_that_leave_the_folder(name: str) -> None:
    assert leaves_root(name)


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "a..b.jpg", ".hidden.jpg", "..a/b.jpg", "größe.png"])
def test_names_that_stay_inside(name: str) -> None:
    assert not leaves_root(name)


def test_all_tried_paths_are_listed_once(tmp_path: Path) -> None:
    tried = [tmp_path / "a", tmp_path / "b", tmp_path / "a"]
    with pytest.raises(DatasetError, match=r"data\.yaml: images not found; tried ") as caught:
        find_existing(tried, "images", "data.yaml")
    assert str(caught.value).endswith(f"tried {tmp_path / 'a'}, {tmp_path / 'b'}")
    (tmp_path / "b").touch()
    assert find_existing(tried, "images", "data.yaml") == tmp_path / "b"


def test_relative_paths_fall_back_to_the_shared_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETSEG_DATA", "/shared")
    assert relative_candidates("../x", Path("/a/b")) == [Path("/a/x"), Path("/x")]
    monkeypatch.delenv("DETSEG_DATA")
    assert relative_candidates("x", Path("/a/b")) == [Path("/a/b/x")]


@pytest.mark.parametrize("names", [None, [], "cat", ["cat", ""], ["cat", True], ["cat", 3], ["cat", "dog", "cat"], {}])
def test_class_names_that_are_none(names: object) -> None:
    with pytest.raises(DatasetError, match="here"):
        check_class_names(names, "here")


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\n\r\n  big dog \n")
    assert read_lines(path) == ["cat", "big dog"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"names\.txt: cannot be read as text"):
        read_lines(path)


def test_an_image_that_is_shown_smaller_is_loaded_smaller(tmp_path: Path) -> None:
    builder = PackedBuilder()
    for index, height in enumerate((48, 48, 24)):
        builder.add_image(index + 1, f"{index}.jpg", height, 64)
        builder.add_object(index, (8.0, 12.0, 20.0, 4.0), 0)
        write_image(tmp_path / f"{index}.jpg", np.full((48, 64, 3), 40, np.uint8))
    dataset = Dataset(root=tmp_path, split="train", class_names=("a",), annotations=builder.build())
    for one, index in ((dataset, 1), (ImageSubset(dataset, [1, 2]), 0)):
        sample = one.load(index, (12, 16))
        assert sample.image.shape == (12, 16, 3)
        assert sample.boxes_xyxy.tolist() == [[2, 3, 7, 4]]
        assert (sample.transform.scale_x, sample.transform.original_width) == (0.25, 64)
        assert one.load(index).image.shape == (48, 64, 3)
        # What is annotated as half as high is not taken for a reduced image.
        with pytest.raises(ImageError, match=r"2\.jpg: 64x48 pixels, .* but its annotations are for 64x24"):
            one.load(index + 1, (24, 32))
