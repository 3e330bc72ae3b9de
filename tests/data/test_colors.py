from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.drawing.palette import color_of, palette_of


def masks(folder: Path, yaml: str, colored: bool = False) -> Path:
    """One image with a mask of two classes, 4 x 4, and its description."""
    for name in ("images", "masks"):
        (folder / "train" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "train" / "images" / "a.png")
    mask = np.zeros((4, 4, 3), np.uint8) if colored else np.zeros((4, 4), np.uint8)
    mask[2:] = (9, 8, 7) if colored else 1
    Image.fromarray(mask).save(folder / "train" / "masks" / "a.png")
    (folder / "data.yaml").write_text(f"format: masks\npath: .\n{yaml}")
    return folder / "data.yaml"


def test_colors_that_masks_are_read_by_are_those_of_drawings(tmp_path: Path) -> None:
    path = masks(tmp_path, "names: [sea, land]\ncolors: [[0, 0, 0], [9, 8, 7]]\n", colored=True)
    assert open_dataset(path, "train").class_colors == ((0, 0, 0), (9, 8, 7))


def shapes(folder: Path, lines: str) -> Path:
    (folder / "data.yaml").write_text(f"format: coco\npath: .\n{lines}")
    (folder / "images").mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "images" / "a.png")
    (folder / "train.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],'
        ' "categories": [{"id": 1, "name": "van"}, {"id": 2, "name": "car"}, {"id": 3, "name": "dog"}],'
        ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}]}'
    )
    return folder / "data.yaml"


SPLIT = "train: {images: images, annotations: train.json}\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ()),
        ("colors: {car: [1, 2, 3]}\n", (color_of(0), (1, 2, 3), color_of(2))),
        ("colors: ['#010203', [4, 5, 6], [7, 8, 9]]\n", ((1, 2, 3), (4, 5, 6), (7, 8, 9))),
        # A van counts as a car: its color counts where the car has none.
        ("classes: {van: car}\ncolors: {van: [1, 2, 3]}\n", ((1, 2, 3), palette_of(("car", "dog"))[1])),
        ("classes: {van: car}\ncolors: {van: [1, 2, 3], car: [4, 5, 6]}\n", ((4, 5, 6), palette_of(("car", "dog"))[1])),
    ],
    ids=["none", "one", "a list", "renamed", "renamed and named"],
)
def test_colors_of_boxes(tmp_path: Path, lines: str, expected: tuple[object, ...]) -> None:
    assert open_dataset(shapes(tmp_path, SPLIT + lines), "train").class_colors == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("colors: [[1, 2, 3]]\n", "expected one color for each of 3 classes"),
        ("colors: {cat: [1, 2, 3]}\n", "names none of the classes van, car, dog"),
        ("colors: {car: [1, 2, 300]}\n", "a color is"),
    ],
)
def test_what_are_no_colors(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(shapes(tmp_path, SPLIT + lines), "train")
