"""Labels of many small files are kept for as long as none of the files changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.check import check_dataset
from detseg.data.datasets import kept_labels
from detseg.data.datasets.dataset import Dataset
from detseg.data.entries import voc_xml, yolo_labels
from detseg.data.open import open_dataset
from detseg.runtime.media.images import write_image

NUM_IMAGES = 3
LONG_AGO = -3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_labels, "MIN_FILES", 2 * NUM_IMAGES)
    # Files that were just made count as settled, so that no test waits for them to be.
    monkeypatch.setattr(kept_labels, "_SETTLED_SECONDS", LONG_AGO)
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "labels"


def write_yolo(root: Path) -> Path:
    """Images of 20x40 pixels: a box and a triangle, a box in a file beside the image, and none."""
    for folder in (root / "images", root / "labels"):
        folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        write_image(root / "images" / f"{number}.png", np.zeros((20, 40, 3), np.uint8))
    (root / "labels" / "0.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.25 0.5 0.75 0.5 0.5 1\n")
    (root / "images" / "1.txt").write_text("0 0.5 0.5 0.1 0.2\n")
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [cat, straße]\n")
    return root / "labels" / "0.txt"


def write_voc(root: Path) -> Path:
    """An object in each image, one of which has no size in its file."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(NUM_IMAGES):
        write_image(root / "JPEGImages" / f"{number}.png", np.zeros((20, 40, 3), np.uint8))
        size = "<size><width>40</width><height>20</height></size>" if number else ""
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename>{size}<object><name>{'ab'[number % 2]}</name>"
            f"<difficult>{number % 2}</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax>"
            "<ymax>8</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets" / "Main" / "train.txt").write_text("2\n0\n1\n")
    return root / "Annotations" / "0.xml"


WRITERS = {"yolo": write_yolo, "voc": write_voc}
# What each format parses one file with.
PARSERS: dict[str, tuple[Any, str]] = {"yolo": (yolo_labels, "read_any_text"), "voc": (voc_xml, "read_bytes")}


@pytest.fixture(params=list(WRITERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def values(dataset: Dataset) -> list[Any]:
    packed = dataset.annotations
    columns = ("image_ids", "heights", "widths", "offsets", "boxes_xywh", "labels", "crowd", "difficult", "areas")
    outlines = [packed.segmentations[row] for row in range(len(packed.labels))]
    return [
        dataset.class_names,
        [(column, getattr(packed, column).dtype, getattr(packed, column).tolist()) for column in columns],
        [packed.names[index] for index in range(len(packed))],
        [None if outline is None else np.asarray(outline).tolist() for outline in outlines],
    ]


def open_set(root: Path) -> list[Any]:
    dataset = open_dataset(root, "train", target="boxes")
    assert isinstance(dataset, Dataset)
    return values(dataset)


def never(*_: Any) -> Any:
    raise AssertionError("a file of labels was read again")


def test_the_second_time_no_file_is_read(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    WRITERS[name](root)
    before = sorted(root.rglob("*"))
    first, findings = open_set(root), check_dataset(root, decode=False).findings
    monkeypatch.setattr(*PARSERS[name], never)
    assert open_set(root) == first
    assert check_dataset(root, decode=False).findings == findings
    assert sorted(root.rglob("*")) == before
    assert cache.is_dir()


def test_a_file_that_changed_is_read_again(name: str, tmp_path: Path, cache: Path) -> None:
    labels = WRITERS[name](tmp_path / "data")
    first = open_set(tmp_path / "data")
    status, text = labels.stat(), labels.read_text()
    # Of the same length, and its time is set back: that of its inode cannot be.
    labels.write_text(text.replace("0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.3").replace("<xmin>1<", "<xmin>3<"))
    os.utime(labels, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (labels.stat().st_size, labels.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    second = open_set(tmp_path / "data")
    assert second != first
    labels.write_text(text)
    assert open_set(tmp_path / "data") == first
    labels.unlink()
    if name == "yolo":
        assert open_set(tmp_path / "data") != first
    else:
        with pytest.raises(ValueError, match=r"0\.xml: cannot be read"):
            open_set(tmp_path / "data")


def test_an_image_that_changed_is_measured_again(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    first = open_set(tmp_path / "data")
    (image,) = (path for path in (tmp_path / "data").rglob("0.png"))
    write_image(image, np.zeros((40, 80, 3), np.uint8))
    second = open_set(tmp_path / "data")
    assert second[1][1] != first[1][1]  # the heights


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content[:99]])
def test_what_is_damaged_is_made_again(
    name: str, tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    WRITERS[name](tmp_path / "data")
    first = open_set(tmp_path / "data")
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert open_set(tmp_path / "data") == first
    assert kept.read_bytes() == whole


def test_labels_with_a_fault_are_not_kept(tmp_path: Path, cache: Path) -> None:
    labels = write_yolo(tmp_path / "data")
    labels.write_text("5 0.5 0.5 0.5 0.5\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="class 5, allowed are integers from 0 to 1"):
            open_set(tmp_path / "data")
    assert not cache.exists()


def test_files_that_may_still_change_and_few_files_are_not_kept(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path / "data")
    monkeypatch.setattr(kept_labels, "_SETTLED_SECONDS", 3600)
    open_set(tmp_path / "data")
    monkeypatch.setattr(kept_labels, "_SETTLED_SECONDS", LONG_AGO)
    monkeypatch.setattr(kept_labels, "MIN_FILES", 100)
    open_set(tmp_path / "data")
    assert not cache.exists()


def test_other_names_of_classes_are_another_set(tmp_path: Path, cache: Path) -> None:
    write_yolo(tmp_path / "data")
    open_set(tmp_path / "data")
    (tmp_path / "data" / "data.yaml").write_text("train: images\nnames: [dog, bird]\n")
    assert open_set(tmp_path / "data")[0] == ("dog", "bird")
