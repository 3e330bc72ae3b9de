from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.label_mapping import LabelMapping, pack_color, pack_colors
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError, write_image
from detseg.structures import IGNORE_INDEX

CAMVID = Path(__file__).parents[3] / "configs" / "data" / "camvid.yaml"
MASK = np.array([[0, 1, 2], [2, 2, 255]], np.uint8)


def _add(images: Path, masks: Path, stem: str, mask: Any = MASK, size: tuple[int, int] = (2, 3)) -> None:
    write_image(images / f"{stem}.png", np.full((*size, 3), 50, np.uint8))
    if mask is not None:
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(mask)).save(masks / f"{stem}.png")


@pytest.fixture
def camvid_like(tmp_path: Path) -> Path:
    """Two splits in the layout of CamVid, with three classes."""
    root = tmp_path / "set"
    for split, stems in (("train", "ba"), ("val", "c")):
        for stem in stems:
            _add(root / split / "images", root / split / "masks", stem)
    (root / "classes.txt").write_text("sky\nroad\ntree\n")
    return root


def _described(root: Path, **settings: Any) -> Path:
    path = root.parent / "my.yaml"
    path.write_text(yaml.safe_dump({"format": "masks", "path": str(root), **settings}))
    return path


def test_a_folder_with_a_list_of_classes(camvid_like: Path) -> None:
    assert available_splits(camvid_like) == ("train", "val")
    dataset = open_dataset(camvid_like, "train")
    assert dataset.target == "masks"
    assert dataset.has_masks
    assert dataset.class_names == ("sky", "road", "tree")
    assert dataset.category_ids == (0, 1, 2)
    assert dataset.home == camvid_like
    assert [dataset.image_id(index) for index in range(len(dataset))] == [1, 2]
    assert dataset.path(0) == str(camvid_like / "train/images/a.png")
    assert dataset.mask_path(0) == str(camvid_like / "train/masks/a.png")
    assert dataset.mask(0).tolist() == MASK.tolist()
    sample = dataset.load(1)
    assert sample.image.shape == (2, 3, 3)
    assert sample.mask is not None
    assert sample.mask.tolist() == MASK.tolist()
    assert sample.boxes_xyxy.shape == (0, 4)
    with pytest.raises(IndexError):
        dataset.mask_path(-1)


def test_the_other_order_of_folders(tmp_path: Path) -> None:
    _add(tmp_path / "images/valid", tmp_path / "masks/valid", "a")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert available_splits(tmp_path) == ("valid",)
    assert open_dataset(tmp_path, "val").split == "valid"
    _add(tmp_path / "valid/images", tmp_path / "valid/masks", "a")
    with pytest.raises(DatasetError, match=r"both .*valid/images and .*images/valid are there; name one in a YAML"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize(
    ("settings", "names", "values", "expected"),
    [
        ({"names": ["a", "b", "c"]}, "abc", (0, 1, 2), [[0, 1, 2], [2, 2, IGNORE_INDEX]]),
        ({"names": ["a", "b"], "ignore_index": 2, "extra": 255}, "ab", (0, 1), None),
        (
            {"names": ["a", "b"], "ignore_index": [2, 255]},
            "ab",
            (0, 1),
            [[0, 1, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]],
        ),
        (
            {"names": {2: "c", 0: "a", 255: "d"}, "ignore_index": 1},
            "acd",
            (0, 2, 255),
            [[0, IGNORE_INDEX, 1], [1, 1, 2]],
        ),
        # A class 255 leaves the default, which would be the same value, unused.
        ({"names": {0: "a", 1: "b", 2: "c", 255: "d"}}, "abcd", (0, 1, 2, 255), [[0, 1, 2], [2, 2, 3]]),
    ],
)
def test_values_and_ignored(
    camvid_like: Path, settings: dict[str, Any], names: str, values: tuple[int, ...], expected: Any
) -> None:
    if expected is None:
        with pytest.raises(DatasetError, match="extra: expected"):
            open_dataset(_described(camvid_like, **settings), "val")
        return
    dataset = open_dataset(_described(camvid_like, **settings), "val")
    assert dataset.class_names == tuple(names)
    assert dataset.category_ids == values
    assert dataset.mask(0).tolist() == expected


def test_a_description_that_lies_elsewhere(camvid_like: Path, tmp_path: Path) -> None:
    description = tmp_path / "description.yaml"
    description.write_text("format: masks\npath: nowhere\nnames: [x, y]\nignore_index: [2, 255]\n")
    dataset = open_dataset(camvid_like, "val", target="masks", description=description)
    assert dataset.class_names == ("x", "y")
    assert dataset.path(0) == str(camvid_like / "val/images/c.png")
    (camvid_like / "data.yaml").write_text("format: masks\nnames: [own, of, folder]\n")
    assert open_dataset(camvid_like, "val", description=description).class_names == ("own", "of", "folder")


def test_color_maps(tmp_path: Path) -> None:
    colors = np.array([[(128, 0, 0), (0, 0, 0)], [(64, 64, 128), (128, 0, 0)]], np.uint8)
    _add(tmp_path / "set/val/images", tmp_path / "set/val/masks", "a", colors, size=(2, 2))
    settings = {"names": ["building", "car"], "colors": [[128, 0, 0], [64, 64, 128]]}
    dataset = open_dataset(_described(tmp_path / "set", **settings, ignore_index=[0, 0, 0]), "val")
    assert dataset.category_ids == (0, 1)
    assert dataset.mask(0).tolist() == [[0, IGNORE_INDEX], [1, 0]]
    # By name, in any order; the names may be left out then.
    by_name = {"car": [64, 64, 128], "building": [128, 0, 0]}
    named = open_dataset(
        _described(tmp_path / "set", names=["building", "car"], colors=by_name, ignore_index=[0, 0, 0]), "val"
    )
    assert named.mask(0).tolist() == [[0, IGNORE_INDEX], [1, 0]]
    alone = open_dataset(_described(tmp_path / "set", colors=by_name, ignore_index=[0, 0, 0]), "val")
    assert (alone.class_names, alone.mask(0).tolist()) == (("building", "car"), [[0, IGNORE_INDEX], [1, 0]])
    dataset = open_dataset(_described(tmp_path / "set", **settings), "val")
    message = (
        r"a\.png: color \(0, 0, 0\), first at x 1, y 0, 1 pixels, is neither a class nor ignored; allowed are "
        r"\(128, 0, 0\) building, \(64, 64, 128\) car"
    )
    with pytest.raises(DatasetError, match=message):
        dataset.mask(0)


def test_lists_of_files(camvid_like: Path, tmp_path: Path) -> None:
    """As `detseg split` writes them: the names lead anywhere, and masks may lie in several folders."""
    images = [camvid_like / "val/images/c.png", camvid_like / "train/images/a.png"]
    (tmp_path / "images.txt").write_text("".join(f"{path}\n" for path in images))
    masks = ["val/masks/c.png", "train/masks/a.png"]
    (tmp_path / "masks.txt").write_text("".join(f"{path}\n" for path in masks))
    entry = {"images": "images.txt", "masks": "masks.txt"}
    dataset = open_dataset(_described(camvid_like, names=list("abc"), val=entry), "val")
    assert [dataset.path(index) for index in range(2)] == [str(path) for path in images]
    assert [dataset.mask_path(index) for index in range(2)] == [str(camvid_like / path) for path in masks]
    (tmp_path / "one.txt").write_text("train/images/a.png\n")
    entry = {"images": "one.txt", "masks": "train/masks"}
    dataset = open_dataset(_described(camvid_like, names=list("abc"), train=entry), "train")
    assert len(dataset) == 1
    assert dataset.mask(0).tolist() == MASK.tolist()
    with pytest.raises(DatasetError, match="no split 'val'; there is train"):
        open_dataset(tmp_path / "my.yaml", "val")


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("train/images/a.png\n", "train/masks/a.png\ntrain/masks/b.png\n", "has 1 images, .*m.txt lists 2 masks"),
        ("train/images/a.png\n" * 2, "", r"i\.txt: 'train/images/a\.png' is listed twice"),
        ("train/images/none.png\n", "", r"i\.txt: 'train/images/none\.png' not found; tried"),
        ("", "", "no images in .*i.txt"),
    ],
)
def test_lists_that_do_not_fit(camvid_like: Path, tmp_path: Path, images: str, masks: str, message: str) -> None:
    (tmp_path / "i.txt").write_text(images)
    (tmp_path / "m.txt").write_text(masks)
    with pytest.raises(DatasetError, match=message):
        open_dataset(_described(camvid_like, names=list("abc"), val={"images": "i.txt", "masks": "m.txt"}), "val")


def test_the_names_are_asked_for_with_what_the_masks_hold(camvid_like: Path) -> None:
    (camvid_like / "classes.txt").unlink()
    message = r"names of the classes are missing; masks hold the values 0, 1, 2, 255 \(2 of 2 were read\)"
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(camvid_like, "train")
    lines = str(caught.value).splitlines()
    advised = yaml.safe_load("\n".join(line.strip() for line in lines[1:5]))
    assert advised == {
        "format": "masks",
        "path": str(camvid_like),
        "names": {0: "NAME", 1: "NAME", 2: "NAME"},
        "ignore_index": 255,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["a", "b", "c"], "ignore_index": 1}, "the value of b is also ignored; a pixel is one or the other"),
        ({"names": ["a"], "ignore_index": 256}, "ignore_index: expected integers from 0 to 255, got 256"),
        ({"names": ["a"], "ignore_index": "none"}, "ignore_index: expected integers from 0 to 255, got 'none'"),
        ({"names": {-1: "a"}}, r"names: the values must be integers from 0 to 255, got \[-1\]"),
        ({"names": {"a": 0}}, "names: the values must be integers"),
        ({"names": ["a", "a"]}, "class names must differ"),
        ({"names": "a"}, "expected a list of class names, got 'a'"),
        ({"names": [str(number) for number in range(255)]}, "255 classes, allowed are 254"),
        ({"names": ["a", "b"], "colors": [[0, 0, 0]]}, r"colors: expected one \[red, green, blue\] .* for each of 2"),
        ({"names": ["a"], "colors": [[0, 0, 256]]}, "colors: expected one"),
        ({"names": ["a", "b"], "colors": {"a": [0, 0, 9]}}, r"colors: none for b; give NAME: \[red, green, blue\]"),
        ({"names": ["a"], "colors": {"a": [0, 0, 9], "c": [0, 0, 8]}}, "colors: no class is called c"),
        ({"names": ["a", "b"], "colors": [[0, 0, 9], [0, 0, 9]]}, "a and b have the same color"),
        ({"names": ["a"], "colors": [[0, 0, 9]], "ignore_index": [0, 0, 9]}, "the color of a is also ignored"),
        ({"names": ["a"], "colors": [[0, 0, 9]], "ignore_index": 3}, r"ignore_index: with colors, expected \[red"),
        ({"names": {0: "a"}, "colors": [[0, 0, 9]]}, "names: with colors a list in their order"),
        ({"names": ["a"], "vold": 3}, "vold: expected {images"),
        ({"names": ["a"], "val": {"images": "val/images", "masks": "nowhere"}}, "val: masks not found; tried"),
        ({"names": ["a"], "val": {"images": "val/images/c.png", "masks": "val/masks"}}, "expected a folder or a .txt"),
    ],
)
def test_a_yaml_that_is_wrong(camvid_like: Path, settings: dict[str, Any], message: str) -> None:
    path = _described(camvid_like, **settings)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(path, "val")
    assert str(caught.value).startswith(str(path))


def _opened(root: Path) -> Dataset:
    return open_dataset(root, "val")


def test_an_unknown_label(camvid_like: Path) -> None:
    Image.fromarray(np.array([[0, 7, 1], [9, 7, 7]], np.uint8)).save(camvid_like / "val/masks/c.png")
    message = (
        r"val/masks/c\.png: value 7, first at x 1, y 0, 3 pixels, is neither a class nor ignored; nor is 9; "
        r"allowed are 0 sky, 1 road, 2 tree, 255 ignored$"
    )
    dataset = _opened(camvid_like)
    for read in (dataset.mask, dataset.load):
        with pytest.raises(DatasetError, match=message):
            read(0)


def test_a_value_254_is_as_unknown_as_any(camvid_like: Path) -> None:
    Image.fromarray(np.full((2, 3), 254, np.uint8)).save(camvid_like / "val/masks/c.png")
    with pytest.raises(DatasetError, match="value 254, first at x 0, y 0, 6 pixels"):
        _opened(camvid_like).mask(0)


def test_a_mask_of_another_size(camvid_like: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(camvid_like / "val/masks/c.png")
    with pytest.raises(DatasetError, match=r"masks/c\.png: 5x4 pixels, but the image .*images/c\.png has 3x2"):
        _opened(camvid_like).load(0)


@pytest.mark.parametrize("oriented", [False, True])
def test_a_mask_with_swapped_sides(camvid_like: Path, oriented: bool) -> None:
    """Drawn on the pixels as stored, while the image is shown turned."""
    image = Image.new("RGB", (3, 2))
    exif = image.getexif()
    exif[0x0112] = 6 if oriented else 1
    path = camvid_like / "val/images/c.png"
    image.save(path, exif=exif)
    mask = np.zeros((2, 3) if oriented else (3, 2), np.uint8)
    Image.fromarray(mask).save(camvid_like / "val/masks/c.png")
    with pytest.raises(DatasetError, match="pixels, but the image") as caught:
        _opened(camvid_like).load(0)
    assert ("EXIF orientation 6 of the image turns it" in str(caught.value)) == oriented
    assert ("EXIF" in str(caught.value)) == oriented
    Image.fromarray(mask.T.copy()).save(camvid_like / "val/masks/c.png")
    assert _opened(camvid_like).load(0).mask is not None


def test_a_missing_mask(camvid_like: Path) -> None:
    (camvid_like / "train/masks/b.png").unlink()
    message = r"train: 1 of 2 images have no mask; the first is .*images/b\.png: .*masks/b\.png was expected"
    with pytest.raises(DatasetError, match=message):
        open_dataset(camvid_like, "train")


def test_a_mask_that_vanishes_later(camvid_like: Path) -> None:
    dataset = _opened(camvid_like)
    Path(dataset.mask_path(0)).unlink()
    with pytest.raises(ImageError, match=r"masks/c\.png: there is no such file; the mask of .*images/c\.png"):
        dataset.load(0)
    with pytest.raises(ImageError, match=r"masks/c\.png: the mask of .*images/c\.png cannot be read"):
        dataset.fingerprint(0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.eye(3, dtype=np.uint8)[np.zeros((2, 3), int)], r"masks/c\.png: has 3 channels \(RGB\)"),
        (np.full((2, 3), 256, np.uint16), r"masks/c\.png: has one channel of 16 bits"),
    ],
)
def test_a_mask_of_another_kind(camvid_like: Path, mask: Any, message: str) -> None:
    Image.fromarray(mask).save(camvid_like / "val/masks/c.png")
    with pytest.raises(DatasetError, match=message):
        _opened(camvid_like).load(0)


def test_an_empty_folder(tmp_path: Path) -> None:
    for name in ("val/images", "val/masks"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"no images in {tmp_path}/val/images; suffixes are"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_name(camvid_like: Path, folder: str) -> None:
    Image.fromarray(MASK).save(camvid_like / "val" / folder / "c.bmp")
    with pytest.raises(DatasetError, match=r"c\.bmp: c\.bmp, c\.png: which mask"):
        _opened(camvid_like)


def test_a_damaged_image_is_for_the_loader_to_judge(camvid_like: Path) -> None:
    (camvid_like / "val/images/c.png").write_bytes(b"no image")
    dataset = _opened(camvid_like)
    assert dataset.size(0) == (0, 0)
    assert dataset.mask(0).shape == (2, 3)
    with pytest.raises(ImageError, match=r"images/c\.png"):
        dataset.load(0)


def test_masks_are_not_mistaken_for_boxes_nor_boxes_for_masks(camvid_like: Path) -> None:
    write_image(camvid_like / "images/val/a.png", np.zeros((2, 3, 3), np.uint8))
    (camvid_like / "labels/val").mkdir(parents=True)
    (camvid_like / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DatasetError, match="may be yolo or masks; say which with --format"):
        open_dataset(camvid_like, "val")
    assert open_dataset(camvid_like, "val", target="masks").target == "masks"
    assert open_dataset(camvid_like, "val", target="boxes").target == "boxes"
    (camvid_like / "val/masks").rename(camvid_like / "val/other")
    (camvid_like / "train/masks").rename(camvid_like / "train/other")
    assert open_dataset(camvid_like, "val").target == "boxes"


def test_the_fingerprint_follows_the_mask_and_its_meaning(camvid_like: Path) -> None:
    dataset = open_dataset(_described(camvid_like, names=list("abc")), "val")
    before = dataset.fingerprint(0)
    assert (
        open_dataset(_described(camvid_like, names=list("ab"), ignore_index=[2, 255]), "val").fingerprint(0) != before
    )
    assert dataset.fingerprint(0) == before
    Image.new("L", (30, 20)).save(dataset.mask_path(0))
    assert dataset.fingerprint(0) != before


def test_colors_are_packed_alike() -> None:
    colors = [(0, 0, 1), (1, 2, 3), (255, 254, 253)]
    assert [pack_color(color) for color in colors] == [1, 66051, 16776957]
    assert pack_colors(np.array(colors, np.uint8)).tolist() == [1, 66051, 16776957]


def test_long_lists_of_classes_are_cut() -> None:
    names = tuple(f"class {number}" for number in range(50))
    allowed = LabelMapping(names, tuple(range(50))).allowed()
    assert allowed.startswith("0 class 0, ")
    assert allowed.endswith("39 class 39, 10 more classes, 255 ignored")


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid(detseg_data: Path, monkeypatch: pytest.MonkeyPatch, split: str, count: int) -> None:
    monkeypatch.setenv("DETSEG_DATA", str(detseg_data))
    started = time.process_time()
    dataset = open_dataset(CAMVID, split)
    assert time.process_time() - started < 2
    assert len(dataset) == count
    assert (len(dataset.class_names), dataset.class_names[3]) == (11, "road")
    assert dataset.category_ids == tuple(range(11))
    found: set[int] = set()
    rows: dict[str, list[float]] = {"sky": [], "road": []}
    for index in range(0, count, 4):
        mask = dataset.mask(index)
        assert mask.shape == dataset.size(index) == (360, 480)
        found |= set(np.unique(mask).tolist())
        for name, heights in rows.items():
            heights += np.nonzero(mask == dataset.class_names.index(name))[0].mean(keepdims=True).tolist()
    assert found == {*range(11), IGNORE_INDEX}
    # The order of the names: the sky is above, the road below.
    assert max(rows["sky"]) < 180 < min(rows["road"])
