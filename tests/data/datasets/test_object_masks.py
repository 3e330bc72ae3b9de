"""Instances in memory: masks of training samples and of the ground truth, whatever form the files have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from detseg.data.check import check_dataset
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.identity import describe_changes, identify
from detseg.data.datasets.object_masks import resized
from detseg.data.datasets.subset import ImageSubset
from detseg.data.loading.cache import CachedDataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.run_lengths import RunLengths, pack_masks
from detseg.runtime.media.images import write_image

SQUARE = [4, 2, 12, 2, 12, 10, 4, 10]
L_SHAPE = [20, 4, 36, 4, 36, 8, 24, 8, 24, 16, 20, 16]
CROWD = {"size": [20, 40], "counts": [0, 100, 700]}


def write_coco(folder: Path, outlines: list[Any], split: str = "train", **extra: Any) -> None:
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1 + number % 2, "bbox": [4, 2, 32, 14], "area": 64,
         "iscrowd": int(outline is CROWD)} | ({} if outline is None else {"segmentation": outline}) | extra
        for number, outline in enumerate(outlines, 1)
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 40}]
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "annotations": annotations}))
    write_image(folder / split / "a.png", np.zeros((20, 40, 3), np.uint8))


def write_yolo(folder: Path, lines: list[str]) -> None:
    write_image(folder / "images" / "train" / "a.png", np.zeros((20, 40, 3), np.uint8))
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    (folder / "classes.txt").write_text("cat\ndog\n")


def fractions(polygon: list[int]) -> str:
    return " ".join(f"{value / (40, 20)[axis % 2]:.6f}" for axis, value in enumerate(polygon))


def masks_of(dataset: Dataset) -> Any:
    return [one.to_mask() for one in dataset.object_masks(0)]


EXPECTED = np.zeros((2, 20, 40), bool)
EXPECTED[0, 2:10, 4:12] = True
EXPECTED[1, 4:8, 20:36] = EXPECTED[1, 4:16, 20:24] = True


def test_coco_has_masks_of_polygons_and_runs(tmp_path: Path) -> None:
    parts = [SQUARE, [26, 12, 30, 12, 30, 16, 26, 16]]
    runs = RunLengths.from_mask(EXPECTED[1])
    write_coco(tmp_path, [[SQUARE], [L_SHAPE], parts, runs.to_coco(), CROWD])
    dataset = open_dataset(tmp_path, "train", target="instances")
    assert isinstance(dataset, Dataset)
    assert (dataset.target, dataset.class_names, dataset.num_objects) == ("instances", ("cat", "dog"), 5)
    official = COCO(tmp_path / "annotations" / "instances_train.json")
    truth = dataset.ground_truth(0)
    assert truth.masks is not None
    for number, mask in enumerate(truth.masks, 1):
        assert np.array_equal(mask.to_mask(), official.annToMask(official.anns[number]))
    assert (np.array(masks_of(dataset))[[0, 1]] == EXPECTED).all()
    assert truth.masks[3] == runs
    sample = dataset.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, np.stack(masks_of(dataset)))
    assert sample.crowd.tolist() == [False] * 4 + [True]
    boxes_only = open_dataset(tmp_path, "train").load(0)
    assert (boxes_only.object_masks, boxes_only.boxes_xyxy.tolist()) == (None, sample.boxes_xyxy.tolist())


def test_yolo_has_masks_of_polygons(tmp_path: Path) -> None:
    write_yolo(tmp_path, [f"1 {fractions(SQUARE)}", f"0 {fractions(L_SHAPE)}"])
    dataset = open_dataset(tmp_path, "train", target="instances")
    assert isinstance(dataset, Dataset)
    sample = dataset.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, EXPECTED)
    assert sample.labels.tolist() == [1, 0]
    assert sample.boxes_xyxy.tolist() == [[4, 2, 12, 10], [20, 4, 36, 16]]


def test_objects_without_outline_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", [[SQUARE], None, [], [L_SHAPE]])
    with pytest.raises(DatasetError, match=r"annotations 2, 3: have no outline, which instances are learned from"):
        open_dataset(tmp_path / "coco", "train", target="instances")
    assert len(open_dataset(tmp_path / "coco", "train")) == 1, "their boxes can be learned"
    # Entry by entry, as files are read that are not quite as COCO writes them.
    write_coco(tmp_path / "careful", [[SQUARE], None], area="64")
    with pytest.raises(DatasetError, match=r"annotation 2: has no outline"):
        open_dataset(tmp_path / "careful", "train", target="instances")
    write_yolo(tmp_path / "yolo", [f"1 {fractions(SQUARE)}", "0 0.5 0.5 0.2 0.2"])
    with pytest.raises(DatasetError, match=r"a.txt: line 2: has no outline"):
        open_dataset(tmp_path / "yolo", "train", target="instances")


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        ({"size": [40, 20], "counts": [800]}, "annotation 1: the mask is of 20x40 pixels, but its image has 40x20"),
        ({"size": [20, 40], "counts": [801]}, "annotation 1: counts of 20x40 pixels must add up to them, got 801"),
        ({"size": [20, 40], "counts": "\u00e9"}, "annotation 1: counts holds a character that stands for no bits"),
        ({"size": [20, 40], "counts": {}}, "annotation 1: counts must be a text or lengths of runs"),
        ([["a", 2, 3, 4]], "annotation 1: the object has no outline"),
    ],
)
def test_outlines_that_are_none_are_named_when_they_are_used(tmp_path: Path, outline: Any, words: str) -> None:
    write_coco(tmp_path, [outline])
    dataset = open_dataset(tmp_path, "train", target="instances")
    assert isinstance(dataset, Dataset)
    for use in (dataset.load, dataset.ground_truth, dataset.object_masks, dataset.check_files):
        with pytest.raises(DatasetError, match=words):
            use(0)


def test_formats_without_outlines_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"instances were asked for \(task instance\): use a data set of format"):
        open_dataset("blobs", "train", target="instances")


def test_what_no_pixel_shows_is_in_no_sample(tmp_path: Path) -> None:
    write_coco(tmp_path, [[SQUARE], [[5, 5, 5.2, 5, 5.2, 5.2]], [L_SHAPE]])
    dataset = open_dataset(tmp_path, "train", target="instances")
    assert isinstance(dataset, Dataset)
    sample = dataset.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, EXPECTED)
    assert sample.labels.tolist() == [1, 1]
    masks = dataset.ground_truth(0).masks
    assert masks is not None
    assert [mask.area for mask in masks] == [64, 0, 96]


def test_masks_go_with_smaller_and_fewer_and_joined_images(tmp_path: Path) -> None:
    write_coco(tmp_path, [[SQUARE], [L_SHAPE]])
    write_coco(tmp_path, [[L_SHAPE]], "val")
    dataset = open_dataset(tmp_path, "train", target="instances")
    assert isinstance(dataset, Dataset)
    smaller = CachedDataset(dataset, "ram", max_side=20)
    sample = smaller.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, EXPECTED[:, 1::2, 1::2]), "the middle of 2x2 pixels is the last one's"
    assert smaller.ground_truth(0).masks == dataset.ground_truth(0).masks
    subset = ImageSubset(dataset, [0])
    assert (subset.target, subset.ground_truth(0).masks) == ("instances", dataset.ground_truth(0).masks)
    joined = open_dataset(tmp_path, "train+val", target="instances")
    assert isinstance(joined, Dataset)
    assert joined.ground_truth(1).masks == dataset.ground_truth(0).masks[1:]  # type: ignore[index]
    assert joined.load(1).object_masks is not None


def test_what_cannot_be_used_is_found_before_it_is_needed(tmp_path: Path) -> None:
    """Training looks at all files first, so that it does not end in the evaluation of an epoch."""
    write_coco(tmp_path, [[SQUARE], CROWD, RunLengths.from_mask(EXPECTED[1]).to_coco()])
    write_coco(tmp_path, [{"size": [20, 40], "counts": "no runs"}], "val")
    for split, is_usable in (("train", True), ("val", False), ("train+val", False)):
        dataset = open_dataset(tmp_path, split, target="instances")
        assert isinstance(dataset, Dataset)
        last = len(dataset) - 1
        for one, whole in ((dataset, False), (dataset, True), (ImageSubset(dataset, [last]), True)):
            index = len(one) - 1
            if is_usable:
                one.check_files(index, whole=whole)
                continue
            with pytest.raises(DatasetError, match="the outline of annotation 1: counts holds a character"):
                one.check_files(index, whole=whole)


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_another_outline_is_another_truth(tmp_path: Path, form: str) -> None:
    other = [20, 4, 36, 4, 36, 8, 24.5, 8.5, 24, 16, 20, 16]
    for name, outline in (("a", L_SHAPE), ("b", other)):
        if form == "coco":
            write_coco(tmp_path / name, [[outline]])
        else:
            write_yolo(tmp_path / name, [f"0 {fractions(outline)}"])
    for truth, changes in (("instances", "other truth of its images"), ("boxes", "")):
        one, two = (identify(open_dataset(tmp_path / name, "train", target=truth)) for name in "ab")  # type: ignore[arg-type]
        assert describe_changes(one, two) == changes


def test_masks_of_smaller_images_are_the_pixels_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = (int(side) for side in rng.integers(1, 30, 2))
        size = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        full = rng.random((3, height, width)) < 0.3
        masks = np.array([resized(mask, *size).to_mask() for mask in pack_masks(full)])
        rows = np.floor((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
        columns = np.floor((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
        assert np.array_equal(masks, full[:, rows][:, :, columns])


def test_check_says_nothing_about_boxes_without_outlines(tmp_path: Path) -> None:
    write_coco(tmp_path, [None, [SQUARE]])
    assert "D009" not in check_dataset(tmp_path).by_code()


@pytest.mark.skipif("DETSEG_DATA" not in os.environ, reason="needs the example data")
@pytest.mark.parametrize("split", ["val"])
def test_masks_of_photographs_are_those_of_pycocotools(split: str) -> None:
    folder = Path(os.environ["DETSEG_DATA"]) / "coco-mini"
    dataset = open_dataset(folder, split, target="instances")
    assert isinstance(dataset, Dataset)
    official = COCO(next((folder / "annotations").glob(f"instances_{split}*.json")))
    num_objects = 0
    for index in range(0, len(dataset), 4):
        masks = dataset.ground_truth(index).masks
        assert masks is not None
        for number, mask in zip(dataset.annotation_ids(index).tolist(), masks, strict=True):
            expected = official.annToRLE(official.anns[number])["counts"]
            assert mask.to_coco()["counts"] == (expected if isinstance(expected, str) else expected.decode())
            num_objects += 1
    assert num_objects > 50
