from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.data.datasets.dataset import Dataset
from detseg.data.loading.cache import CachedDataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image

CAMVID = Path(__file__).parents[3] / "configs" / "data" / "camvid.yaml"


def write_masks(root: Path, splits: dict[str, str]) -> Path:
    """Images that are ``10 * class`` bright, with a mask of that class; each letter is an image, its place in the
    alphabet the class."""
    for split, stems in splits.items():
        for stem in stems:
            value = ord(stem) - ord("a")
            write_image(root / split / "images" / f"{stem}.png", np.full((4, 5, 3), 10 * value, np.uint8))
            (root / split / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 5), value, np.uint8)).save(root / split / "masks" / f"{stem}.png")
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    return root


def write_coco(root: Path, split: str, categories: list[str], boxes: list[list[float]]) -> None:
    """One image per box; the second object is a crowd with a run-length mask, others are triangles."""
    annotations = []
    for number, (x, y, width, height) in enumerate(boxes, start=1):
        write_image(root / split / f"{split}{number}.png", np.full((20, 30, 3), number, np.uint8))
        outline: object = [[x, y, x + width, y, x, y + height]]
        if number == 2:
            outline = {"counts": [0, 600], "size": [20, 30]}
        annotations.append(
            {
                "id": 70 + number,
                "image_id": 100 + number,
                "category_id": len(categories),
                "bbox": [x, y, width, height],
                "area": 7.5 * number,
                "iscrowd": int(number == 2),
                "segmentation": outline,
            }
        )
    images = [
        {"id": 100 + number, "file_name": f"{split}{number}.png", "height": 20, "width": 30}
        for number in range(1, len(boxes) + 1)
    ]
    listed = [{"id": number, "name": name} for number, name in enumerate(categories, start=1)]
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": listed}))


def opened(path: Path, split: str) -> Dataset:
    dataset = open_dataset(path, split)
    assert isinstance(dataset, Dataset)
    return dataset


@pytest.mark.parametrize("cached", [False, True])
def test_masks_of_two_splits(tmp_path: Path, cached: bool) -> None:
    root = write_masks(tmp_path / "set", {"train": "ca", "val": "db"})
    joined = opened(root, "train+val")
    data = CachedDataset(joined, "ram") if cached else joined
    assert (data.split, data.target, data.home, len(data)) == ("train+val", "masks", root, 4)
    # In the order of the parts, each sorted by name.
    assert [Path(data.path(index)).stem for index in range(4)] == ["a", "c", "b", "d"]
    assert [data.image_id(index) for index in range(4)] == [1, 2, 3, 4]
    for index, value in enumerate((0, 2, 1, 3)):
        sample = data.load(index)
        assert sample.image.tolist() == np.full((4, 5, 3), 10 * value).tolist()
        assert sample.mask is not None
        assert sample.mask.tolist() == data.mask(index).tolist() == np.full((4, 5), value).tolist()
        assert Path(data.mask_path(index)).parent.name == "masks"
    assert len({data.fingerprint(index) for index in range(4)}) == 4
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            data.load(outside)
    assert [Path(path).stem for path in map(opened(root, "val + train").path, range(4))] == ["b", "d", "a", "c"]


def test_boxes_keep_all_that_is_known_of_them(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", ["cell", "dot"], [[1.25, 2, 8, 4], [0, 0, 30, 20]])
    write_coco(tmp_path, "val", ["cell", "dot"], [[3, 3, 10, 10.5]])
    parts = [opened(tmp_path, split) for split in ("train", "val")]
    joined = opened(tmp_path, "train+val")
    assert (joined.class_names, joined.category_ids) == (("cell", "dot"), (1, 2))
    assert [joined.annotation_ids(index).tolist() for index in range(3)] == [[1], [2], [3]]
    for index, (part, inner) in enumerate([(parts[0], 0), (parts[0], 1), (parts[1], 0)]):
        ours, theirs = joined.ground_truth(index), part.ground_truth(inner)
        assert ours.image_id == index + 1
        assert (ours.height, ours.width) == (20, 30)
        for name in ("boxes_xywh", "labels", "crowd", "areas"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist() != [], name
        assert joined.difficult(index).tolist() == part.difficult(inner).tolist()
        (outline,), (expected,) = joined.segmentations(index), part.segmentations(inner)
        if isinstance(expected, dict):
            assert outline == expected
        else:
            assert isinstance(outline, list)
            assert isinstance(expected, list)
            assert [points.tolist() for points in outline] == [points.tolist() for points in expected]
        assert joined.load(index).image.tolist() == part.load(inner).image.tolist()
    assert joined.ground_truth(1).crowd.tolist() == [True]


@pytest.mark.parametrize("split", ["train", "val+train"])
def test_three_and_none(tmp_path: Path, split: str) -> None:
    root = write_masks(tmp_path / "set", {"train": "a", "val": "b", "test": "c"})
    assert len(opened(root, f"test+{split}")) == 2 + split.count("+")


def test_a_split_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "set", {"train": "a", "val": "b", "train+val": "abcd"})
    assert len(opened(root, "train+val")) == 4
    assert opened(root, "train+val").mask_path(0) == str(root / "train+val" / "masks" / "a.png")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "set", {"train": "a", "val": "b"})
    with pytest.raises(DatasetError, match=r"train\+train: .*a\.png is in train and again in train"):
        open_dataset(root, "train+train")
    with pytest.raises(DatasetError, match="no split 'tset'"):
        open_dataset(root, "train+tset")
    with pytest.raises(DatasetError, match="no split ''"):
        open_dataset(root, "train+")
    write_coco(tmp_path, "train", ["cell"], [[1, 2, 8, 4]])
    write_coco(tmp_path, "val", ["cell", "dot"], [[3, 3, 10, 10]])
    with pytest.raises(DatasetError, match="train has the classes cell, val has cell, dot; only splits with the same"):
        open_dataset(tmp_path, "train+val")
    with pytest.raises(DatasetError, match=r"splits of volumes cannot be joined as 'train\+val'"):
        open_dataset("blobs", "train+val")


def test_synthetic_images_have_boxes_and_masks() -> None:
    joined = open_dataset("shapes", "train+val", target="boxes")
    train = open_dataset("shapes", "train", target="boxes")
    assert isinstance(joined, Dataset)
    assert isinstance(train, Dataset)
    val = open_dataset("shapes", "val", target="boxes")
    assert isinstance(val, Dataset)
    assert len(joined) == len(train) + len(val)
    assert joined.has_masks
    assert joined.mask(len(train)).tolist() == val.mask(0).tolist()
    assert joined.ground_truth(len(train)).boxes_xywh.tolist() == val.ground_truth(0).boxes_xywh.tolist()


def test_camvid_whole(detseg_data: Path) -> None:
    whole = open_dataset(detseg_data / "camvid", "train+val", description=CAMVID)
    assert isinstance(whole, Dataset)
    assert len(whole) == 367 + 101
    assert len(whole.class_names) == 11
