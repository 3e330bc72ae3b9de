"""Large images as data sets of their tiles: what each tile shows, pixel by pixel and object by object."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.image_tiles import ImageTiles
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.data.loading.cache import CachedDataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.engine.run_data import open_run_data
from detseg.engine.settings import DataConfig
from detseg.runtime.media.images import write_image, write_mask


def annotation(number: int, box_xywh: tuple[float, ...], **more: Any) -> dict[str, Any]:
    x, y, w, h = box_xywh
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": box_xywh,
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [corners],
        **more,
    }


def one_image(folder: Path, size: tuple[int, int], annotations: list[dict[str, Any]]) -> Path:
    """A COCO data set of one image, in which a pixel tells its row and column."""
    height, width = size
    rows, columns = np.indices(size)
    pixels = np.stack([rows % 256, columns % 256, (rows // 256) * 16 + columns // 256], axis=2).astype(np.uint8)
    for split in ("train", "val"):
        write_image(folder / f"{split}2017" / "1.png", pixels)
        content = {
            "images": [{"id": 1, "file_name": "1.png", "height": height, "width": width}],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": annotations,
        }
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def opened(folder: Path, target: Any) -> Dataset:
    dataset = open_dataset(folder, "train", target=target)
    assert isinstance(dataset, Dataset)
    return dataset


def test_tiles_are_those_of_prediction_and_show_their_part(tmp_path: Path) -> None:
    tiles = ImageTiles(opened(one_image(tmp_path, (300, 500), []), "boxes"), (200, 300), 0.5)
    places = [(tile.left, tile.top, tile.right, tile.bottom) for tile in map(tiles.tile, range(len(tiles)))]
    assert places[0][:2] == (0, 0)
    assert {(right - left, bottom - top) for left, top, right, bottom in places} == {(300, 200)}
    assert max(place[2] for place in places) == 500
    assert max(place[3] for place in places) == 300
    for index, (left, top, _, _) in enumerate(places):
        image, mask = tiles.read(index)
        assert mask is None
        assert image[0, 0].tolist() == [top % 256, left % 256, top // 256 * 16 + left // 256]
        assert tiles.size(index) == image.shape[:2] == (200, 300)
        assert tiles.image_id(index) == index + 1
    assert len({tiles.fingerprint(index) for index in range(len(tiles))}) == len(tiles)


# The image is 100x200, the tiles 100x100 without overlap: left from 0, right from 100.
CUT = [
    ("in the left one", (10, 20, 30, 40), [(10, 20, 30, 40)], []),
    ("up to the edge", (70, 20, 30, 40), [(70, 20, 30, 40)], []),
    ("cut in the middle", (80, 20, 40, 40), [(80, 20, 20, 40)], [(0, 20, 20, 40)]),
    ("a tenth on the right", (64, 20, 40, 40), [(64, 20, 36, 40)], [(0, 20, 4, 40)]),
    ("less than a tenth on the right", (65, 20, 38, 40), [(65, 20, 35, 40)], []),
    ("less than two pixels on the right", (90.5, 20, 11, 40), [(90.5, 20, 9.5, 40)], []),
    ("larger than a tile", (2, 2, 196, 96), [(2, 2, 98, 96)], [(0, 2, 98, 96)]),
]


@pytest.mark.parametrize(("box", "left", "right"), [case[1:] for case in CUT], ids=[case[0] for case in CUT])
def test_boxes_are_cut_and_scraps_left_out(tmp_path: Path, box: Any, left: Any, right: Any) -> None:
    tiles = ImageTiles(opened(one_image(tmp_path, (100, 200), [annotation(7, box)]), "boxes"), (100, 100), 0)
    assert len(tiles) == 2
    for index, expected in enumerate((left, right)):
        truth = tiles.ground_truth(index)
        assert truth.boxes_xywh.tolist() == [list(one) for one in expected]
        assert truth.areas.tolist() == pytest.approx([one[2] * one[3] for one in expected])
        sample = tiles.load(index)
        assert sample.boxes_xyxy.tolist() == [[x, y, x + w, y + h] for x, y, w, h in expected]


def test_what_is_out_of_the_image_is_not_cut_by_a_tile(tmp_path: Path) -> None:
    entry = annotation(7, (-20, -20, 50, 50))
    truth = ImageTiles(opened(one_image(tmp_path, (100, 200), [entry]), "boxes"), (100, 100), 0).ground_truth(0)
    assert truth.boxes_xywh.tolist() == [[0, 0, 30, 30]]
    assert truth.areas.tolist() == [2500]


def test_a_crowd_is_never_left_out(tmp_path: Path) -> None:
    crowd = {"size": [100, 200], "counts": [0, 101 * 100, 99 * 100]}
    entry = annotation(7, (0, 0, 101, 100), iscrowd=1, segmentation=crowd)
    tiles = ImageTiles(opened(one_image(tmp_path, (100, 200), [entry]), "boxes"), (100, 100), 0)
    assert [tiles.ground_truth(index).boxes_xywh.tolist() for index in (0, 1)] == [[[0, 0, 100, 100]], [[0, 0, 1, 100]]]
    assert tiles.ground_truth(1).crowd.tolist() == [True]


def test_masks_of_objects_are_cut_pixel_by_pixel_with_boxes_around_what_is_left(tmp_path: Path) -> None:
    """A foot that reaches over the edge is lower than the body, and the box of its part with it."""
    shape = np.zeros((100, 200), np.bool_)
    shape[20:60, 60:90] = True
    shape[50:60, 90:130] = True
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], shape.T.ravel(), [0]]))), prepend=0).tolist()
    counts.append(shape.size - sum(counts))
    entry = annotation(7, (60, 20, 70, 40), segmentation={"size": [100, 200], "counts": counts}, area=int(shape.sum()))
    whole = opened(one_image(tmp_path, (100, 200), [entry]), "instances")
    tiles = ImageTiles(whole, (100, 100), 0)
    for index, (expected, box) in enumerate([(shape[:, :100], [60, 20, 40, 40]), (shape[:, 100:], [0, 50, 30, 10])]):
        truth = tiles.ground_truth(index)
        assert truth.masks is not None
        assert (truth.masks[0].to_mask() == expected).all()
        assert truth.boxes_xywh.tolist() == [box]
        assert truth.areas.tolist() == [expected.sum()]
        assert (np.asarray(tiles.load(index).object_masks)[0] == expected).all()
    # As a cache keeps it, whose samples do not ask the tiles.
    assert (np.asarray(CachedDataset(tiles, "ram").load(1).object_masks)[0] == shape[:, 100:]).all()


def test_of_an_object_with_a_mask_its_pixels_are_counted(tmp_path: Path) -> None:
    """The part on the right is 4 of 44 columns of the box, and 4 of 804 pixels."""
    shape = np.zeros((100, 200), np.bool_)
    shape[30:50, 60:100] = True
    shape[30, 100:104] = True
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], shape.T.ravel(), [0]]))), prepend=0).tolist()
    counts.append(shape.size - sum(counts))
    entry = annotation(7, (60, 30, 44, 20), segmentation={"size": [100, 200], "counts": counts})
    folder = one_image(tmp_path, (100, 200), [entry])
    assert [len(ImageTiles(opened(folder, "instances"), (100, 100), 0).ground_truth(i).labels) for i in (0, 1)] == [
        1,
        0,
    ]
    assert len(ImageTiles(opened(folder, "boxes"), (100, 100), 0).ground_truth(1).labels) == 0


def test_label_masks_are_cut(tmp_path: Path) -> None:
    mask = (np.indices((60, 130)).sum(axis=0) % 2).astype(np.uint8)
    for split in ("train", "val"):
        write_image(tmp_path / split / "images" / "1.png", np.zeros((60, 130, 3), np.uint8))
        write_mask(tmp_path / split / "masks" / "1.png", mask)
    (tmp_path / "classes.txt").write_text("even\nodd\n")
    tiles = ImageTiles(opened(tmp_path, "masks"), (60, 65), 0)
    assert len(tiles) == 2
    assert (tiles.mask(1) == mask[:, 65:]).all()
    part = tiles.load(1).mask
    assert part is not None
    assert (part == mask[:, 65:]).all()


def test_a_tile_larger_than_the_image_is_the_image() -> None:
    whole = ShapesDataset("train", ShapesConfig(num_train=3))
    tiles = ImageTiles(whole, (200, 160), 0.2)
    assert len(tiles) == 3
    for index in range(3):
        assert (tiles.load(index).image == whole.load(index).image).all()
        assert tiles.load(index).boxes_xyxy.tolist() == whole.load(index).boxes_xyxy.tolist()
        assert tiles.annotation_ids(index).tolist() == whole.annotation_ids(index).tolist()


def test_an_image_is_read_once_for_tiles_in_a_row_and_not_sent_to_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened(one_image(tmp_path, (100, 200), []), "boxes")
    read, times = whole.read, []
    monkeypatch.setattr(whole, "read", lambda index: times.append(index) or read(index))
    tiles = ImageTiles(whole, (100, 100), 0)
    first, second = tiles.read(0)[0], tiles.read(1)[0]
    assert times == [0]
    first[:] = 0  # what one sample does to its image is no matter of others
    assert (tiles.read(0)[0] != 0).any()
    assert (second == tiles.read(1)[0]).all()
    monkeypatch.undo()
    assert (pickle.loads(pickle.dumps(tiles)).read(1)[0] == second).all()


def test_a_run_learns_from_tiles_and_is_judged_by_them(tmp_path: Path) -> None:
    one_image(tmp_path, (100, 200), [annotation(1, (80, 20, 40, 40)), annotation(2, (10, 10, 20, 20))])
    data = open_run_data(DataConfig(str(tmp_path), tiles=(100, 100), tile_overlap=0.0), "boxes")
    assert (len(data.train), len(data.usable_train), len(data.val)) == (2, 2, 2)
    assert [len(data.val.ground_truth(index).labels) for index in (0, 1)] == [2, 1]


def test_bad_files_are_left_out_with_all_their_tiles(tmp_path: Path) -> None:
    one_image(tmp_path, (100, 200), [annotation(1, (80, 20, 40, 40))])
    for split in ("train", "val"):
        path = tmp_path / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        content["images"].append({"id": 2, "file_name": "2.png", "height": 100, "width": 200})
        path.write_text(json.dumps(content))
        (tmp_path / f"{split}2017" / "2.png").write_bytes(b"no image")
    config = DataConfig(str(tmp_path), tiles=(100, 100), tile_overlap=0.0, on_bad_image="skip")
    data = open_run_data(config, "boxes")
    assert (len(data.train), len(data.val)) == (2, 2)
    assert len(data.bad_train) == len(data.bad_val) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiles": (0, 640)}, r"tiles must be a positive height and width, such as \[640, 640\], got \[0, 640\]"),
        ({"tile_overlap": 0.95}, r"tile_overlap must lie between 0 and 0\.9, got 0\.95"),
    ],
)
def test_impossible_settings(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_volumes_have_no_tiles() -> None:
    with pytest.raises(DatasetError, match=r"data\.tiles is for images; of volumes patches are learned from"):
        open_run_data(DataConfig("blobs", tiles=(64, 64)), "volumes")
