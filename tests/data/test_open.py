from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from detseg.data import DATASETS
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.format import DatasetFormat
from detseg.data.formats.blobs import BlobsConfig, write_blobs
from detseg.data.open import available_splits, find_source, load_format, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image
from detseg.structures import Target

XML = (
    "<annotation><size><width>40</width><height>20</height></size><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>8</ymax></bndbox></object></annotation>"
)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _add_coco(root: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 40}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 5, 6]}],
    }
    _write(root / "annotations/instances_val.json", json.dumps(content))
    write_image(root / "images/val/a.png", np.zeros((20, 40, 3), np.uint8))


def _add_voc(root: Path, xmax: int = 6) -> None:
    _write(root / "ImageSets/Main/val.txt", "a\n")
    _write(root / "Annotations/a.xml", XML.format(xmax))
    write_image(root / "JPEGImages/a.png", np.zeros((20, 40, 3), np.uint8))


def _add_yolo(root: Path) -> None:
    _write(root / "labels/val/a.txt", "0 0.0875 0.25 0.125 0.3\n")
    _write(root / "classes.txt", "cat\n")
    write_image(root / "images/val/a.png", np.zeros((20, 40, 3), np.uint8))


def _add_masks(root: Path) -> None:
    _write(root / "classes.txt", "cat\n")
    for folder in ("images", "masks"):
        (root / "val" / folder).mkdir(parents=True)
    write_image(root / "val/images/a.png", np.zeros((20, 40, 3), np.uint8))
    Image.new("L", (40, 20)).save(root / "val/masks/a.png")


def _add_nifti(root: Path) -> None:
    write_blobs(root, 3, config=BlobsConfig(min_side=8, max_side=9, min_radius=1, max_radius=2))


OUTLINED = "coco, voc, yolo, labelme, cvat, supervisely, via"
BOXED = OUTLINED.replace("labelme", "labelme, createml")
ADDERS = {"coco": _add_coco, "voc": _add_voc, "yolo": _add_yolo}


@pytest.mark.parametrize("name", DATASETS)
def test_every_format_of_the_table_can_be_imported(name: str) -> None:
    loaded = load_format(name)
    assert isinstance(loaded, DatasetFormat)
    assert loaded.layouts
    assert loaded.targets
    assert set(loaded.targets) <= set(get_args(Target))


@pytest.mark.parametrize("name", ADDERS)
@pytest.mark.parametrize("asked", [False, True])
def test_one_image_in_three_formats(tmp_path: Path, name: str, asked: bool) -> None:
    ADDERS[name](tmp_path)
    dataset = open_dataset(tmp_path, "val", name if asked else None)
    np.testing.assert_allclose(dataset.ground_truth(0).boxes_xywh, [[1, 2, 5, 6]], atol=1e-12)
    assert dataset.class_names == ("cat",)
    assert dataset.home == tmp_path
    assert available_splits(str(tmp_path)) == ("val",)


def test_volumes_in_a_folder_of_their_own_format(tmp_path: Path) -> None:
    _add_nifti(tmp_path)
    assert available_splits(tmp_path) == ("train", "val", "all")
    dataset = open_dataset(tmp_path, "val")
    assert isinstance(dataset, VolumeDataset)
    assert len(dataset) == 1
    assert dataset.home == tmp_path


@pytest.mark.parametrize(("word", "kind"), [("shapes", Dataset), ("blobs", VolumeDataset)])
def test_built_in_sets_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, kind: type) -> None:
    monkeypatch.chdir(tmp_path)
    assert available_splits(word) == ("train", "val", "test")
    assert isinstance(open_dataset(word, "val"), kind)


def test_more_than_one_layout_is_ambiguous(tmp_path: Path) -> None:
    _add_coco(tmp_path)
    _add_yolo(tmp_path)
    with pytest.raises(DatasetError, match=r"may be coco or yolo; say which with --format"):
        open_dataset(tmp_path, "val")
    assert open_dataset(tmp_path, "val", "coco").category_ids == (3,)
    assert open_dataset(tmp_path, "val", format="yolo").category_ids == (1,)


def test_no_known_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set in a known layout") as caught:
        open_dataset(tmp_path, "val")
    for text in (
        "annotations/instances_SPLIT.json",
        "ImageSets/Main/SPLIT.txt",
        "labels/SPLIT/",
        "the word `shapes`",
        "imagesTr/",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("format_name", "message"),
    [
        ("coco", r"no coco data set; looked for \n  coco: annotations/"),
        ("cocoo", "unknown format 'cocoo'; there are coco, voc"),
    ],
)
def test_a_format_that_does_not_fit(tmp_path: Path, format_name: str, message: str) -> None:
    _add_voc(tmp_path)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "val", format_name)


def test_no_such_path_lists_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETSEG_DATA", "/shared")
    with pytest.raises(DatasetError, match=f"nowhere: data set not found; tried {tmp_path}/nowhere, /shared/nowhere"):
        open_dataset("nowhere", "val")


def test_relative_paths_start_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _add_voc(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert Path(open_dataset("set", "val").path(0)) == tmp_path / "set/JPEGImages/a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: coco\nval: {images: images/val, annotations: annotations/instances_val.json}\n", ""),
        ("format: voc\n", ""),
        ("names: [cat]\nval: images/val\n", ""),
        ("format: yolo\nnames: [cat]\nval: images/val\n", ""),
        ("format: shapes\nnum_val: 1\nimage_size: 80\n", ""),
        (
            "format: cocoa\n",
            f"unknown format 'cocoa'; there are {', '.join(DATASETS)}$",
        ),
        ("format: [coco]\n", r"unknown format \['coco'\]"),
        ("format: coco\n", "no coco data set; looked for"),
        ("names: [cat]\n", "no data set in a known layout"),
        ("- a\n", "expected keys such as format, path, train, val and names, got \\['a'\\]"),
        ("a: [\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("format: shapes\nnum_valid: 1\n", "num_valid"),
        ("format: shapes\nnum_val: many\n", "num_val"),
    ],
)
def test_yaml_files(tmp_path: Path, text: str, message: str) -> None:
    _add_coco(tmp_path)
    _add_voc(tmp_path)
    _add_yolo(tmp_path)
    path = tmp_path / "my.yaml"
    path.write_text(text)
    if message:
        with pytest.raises(ValueError, match=message) as caught:
            open_dataset(path, "val")
        assert str(path) in str(caught.value)
    else:
        assert len(open_dataset(path, "val")) == 1


def test_the_format_of_the_yaml_and_the_asked_one_contradict(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("format: shapes\n")
    with pytest.raises(DatasetError, match="the format is 'shapes' there, but 'coco' was asked for"):
        open_dataset(tmp_path / "my.yaml", "val", "coco")


def test_a_folder_is_described_by_its_yaml(tmp_path: Path) -> None:
    _add_yolo(tmp_path)
    shutil.move(tmp_path / "images/val", tmp_path / "images/other")
    shutil.move(tmp_path / "labels/val", tmp_path / "labels/other")
    (tmp_path / "data.yaml").write_text("names: [lion]\nval: images/other\n")
    assert open_dataset(tmp_path, "val").class_names == ("lion",)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(DatasetError, match=r"expected a folder or a YAML, got a file with suffix \.zip"):
        open_dataset(tmp_path / "set.zip", "val")


def test_one_warning_for_all_boxes_left_out(tmp_path: Path) -> None:
    _add_voc(tmp_path, xmax=1)
    with pytest.warns(UserWarning, match=r"1 of the boxes of val are left out.*`detseg check") as caught:
        open_dataset(tmp_path, "val")
    assert len(caught) == 1


def test_no_warning_without_need(tmp_path: Path) -> None:
    _add_voc(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "splits", "num_classes"), [("coco-mini", ("train2017", "val2017"), 80), ("bccd", ("train", "val"), 3)]
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_real_folders_are_recognized(detseg_data: Path, name: str, splits: tuple[str, ...], num_classes: int) -> None:
    assert available_splits(detseg_data / name) == splits
    assert len(open_dataset(detseg_data / name, "val").class_names) == num_classes


def test_a_real_folder_without_the_names_of_its_classes(detseg_data: Path) -> None:
    assert available_splits(detseg_data / "camvid") == ("train", "val")
    with pytest.raises(DatasetError, match="names of the classes are missing; masks hold the values 0, 1, 2, 3, 4, 5"):
        open_dataset(detseg_data / "camvid", "val")


@pytest.mark.parametrize(
    ("add", "has", "target", "task", "formats"),
    [
        (_add_voc, "voc has boxes and instances", "masks", "semantic", "masks, cityscapes or shapes"),
        (_add_masks, "masks has masks", "instances", "instance", f"{OUTLINED}, cityscapes or shapes"),
        (_add_masks, "masks has masks", "boxes", "detection", f"{BOXED}, cityscapes or shapes"),
        (_add_voc, "voc has boxes and instances", "volumes", "volume", "nifti or blobs"),
        (_add_nifti, "nifti has volumes", "masks", "semantic", "masks, cityscapes or shapes"),
    ],
)
def test_a_truth_that_the_format_lacks(
    tmp_path: Path, add: Callable[[Path], None], has: str, target: Target, task: str, formats: str
) -> None:
    add(tmp_path)
    message = rf"format {has}; {target} were asked for \(task {task}\): use a data set of format {formats}$"
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "val", target=target)


def test_the_default_is_the_first_truth_of_the_format(tmp_path: Path) -> None:
    _add_masks(tmp_path)
    assert open_dataset(tmp_path, "val").target == "masks"
    assert open_dataset("shapes", "val").target == "boxes"
    assert open_dataset("blobs", "val").target == "volumes"
    assert load_format("shapes").open(find_source("shapes"), "val", "masks").target == "masks"


def test_a_description_does_not_override_a_yaml_that_is_named(tmp_path: Path) -> None:
    _add_coco(tmp_path / "set")
    (tmp_path / "own.yaml").write_text(
        "format: coco\npath: set\nval: {images: images/val, annotations: annotations/instances_val.json}\n"
    )
    (tmp_path / "other.yaml").write_text("format: shapes\n")
    assert open_dataset(tmp_path / "own.yaml", "val", description=tmp_path / "other.yaml").class_names == ("cat",)
    with pytest.raises(DatasetError, match=r"other\.yaml: the format is 'shapes' there, but 'coco' was asked for"):
        open_dataset(tmp_path / "set", "val", "coco", description=tmp_path / "other.yaml")
    with pytest.raises(DatasetError, match=r"none\.yaml: cannot be read"):
        open_dataset(tmp_path / "set", "val", description=tmp_path / "none.yaml")
