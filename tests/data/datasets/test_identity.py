"""What tells a data set from what it was before, whatever its format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detseg.data.datasets.identity import describe_changes, identify
from detseg.data.formats.blobs import BlobsConfig, write_blobs
from detseg.data.open import open_dataset
from detseg.runtime.media.images import write_image, write_mask


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    root = tmp_path / "boxes"
    for split in ("train", "val"):
        for number in range(3):
            write_image(root / "images" / split / f"{split}{number}.png", np.zeros((40, 60, 3), np.uint8))
            label = root / "labels" / split / f"{split}{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "classes.txt").write_text("thing\nother\n")
    return root


def rename(root: Path) -> None:
    for path in (root / "images/train/train1.png", root / "labels/train/train1.txt"):
        path.rename(path.with_stem("zebra"))


def add(root: Path) -> None:
    shutil.copy(root / "images/train/train1.png", root / "images/train/more.png")
    shutil.copy(root / "labels/train/train1.txt", root / "labels/train/more.txt")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda root: None, ""),
    "pixels": (lambda root: write_image(root / "images/train/train1.png", np.ones((40, 60, 3), np.uint8)), ""),
    "a size": (
        lambda root: write_image(root / "images/train/train1.png", np.zeros((42, 60, 3), np.uint8)),
        "other sizes and truth of its images",
    ),
    "a box": (
        lambda root: (root / "labels/train/train1.txt").write_text("0 0.5 0.5 0.4 0.3\n"),
        "other truth of its images",
    ),
    "a class": (
        lambda root: (root / "labels/train/train1.txt").write_text("1 0.5 0.5 0.4 0.4\n"),
        "other truth of its images",
    ),
    "a name": (rename, "other names of its images"),
    "one more": (add, "4 images, 3 before"),
    "the classes": (
        lambda root: (root / "classes.txt").write_text("thing\nthird\n"),
        "the classes thing, third, before thing, other",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("split", ["train", "train+val"])
def test_boxes(boxes: Path, change: str, split: str) -> None:
    alter, message = CHANGES[change]
    before = identify(open_dataset(boxes, split))
    alter(boxes)
    said = describe_changes(before, identify(open_dataset(boxes, split)))
    assert said == (message if split == "train" else message.replace("4 images, 3", "7 images, 6"))


@pytest.mark.parametrize("split", ["train", "train+val"])
def test_a_place_is_no_part_of_it(boxes: Path, tmp_path: Path, split: str) -> None:
    before = identify(open_dataset(boxes, split))
    boxes.rename(tmp_path / "moved")
    assert identify(open_dataset(tmp_path / "moved", split)) == before


def test_masks(tmp_path: Path) -> None:
    root = tmp_path / "masks"
    for number in range(2):
        write_image(root / "train/images" / f"{number}.png", np.zeros((40, 60, 3), np.uint8))
        write_mask(root / "train/masks" / f"{number}.png", np.zeros((40, 60), np.uint8))
    (root / "classes.txt").write_text("a\nb\n")
    before = identify(open_dataset(root, "train"))
    write_mask(root / "train/masks/1.png", np.arange(2400, dtype=np.uint8).reshape(40, 60) % 2)
    assert describe_changes(before, identify(open_dataset(root, "train"))) == "other truth of its images"


def test_volumes(tmp_path: Path) -> None:
    write_blobs(tmp_path / "set", 3, config=BlobsConfig(min_side=20, max_side=24, max_radius=6))
    before = identify(open_dataset(tmp_path / "set", "all"))
    (tmp_path / "set").rename(tmp_path / "moved")
    assert identify(open_dataset(tmp_path / "moved", "all")) == before
    first, second, _ = sorted((tmp_path / "moved/labelsTr").iterdir())
    shutil.copy(first, second)
    assert describe_changes(before, identify(open_dataset(tmp_path / "moved", "all"))) == "other truth of its images"
